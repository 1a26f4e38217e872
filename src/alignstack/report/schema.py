"""The shape of report.json: every key, its unit and its range.

Rates lie in [0, 1] and carry a 95% interval and n; effects are differences of rates (`safe`: harm prevented, `cost`:
benign requests refused). Durations are seconds and stand under `seconds` and nowhere else, so that two reports of the
same run differ in nothing but those. `null` means: not measurable from this run.
"""

from typing import Literal

from typing_extensions import NotRequired, TypedDict  # noqa: UP035 (pydantic reads those of `typing` from 3.12 on)

Side = Literal["training", "inference"]
Label = Literal["harmful", "benign"]


class Rate(TypedDict):
    value: float
    low: float
    high: float
    n: int
    upper_bound: bool
    """n is too small to support the value: read it as "at most `high`"."""


class Effect(TypedDict):
    safe: float
    cost: float
    safe_interval: list[float]
    cost_interval: list[float]


class Seconds(TypedDict):
    p50: float
    p99: float


class Layer(TypedDict):
    """One enforced layer; solo, leave-one-out and Shapley are never published alone."""

    name: str
    kind: Literal["veto", "modifier"]
    side: Side
    solo: Effect
    leave_one_out: Effect
    shapley: Effect
    unique_catches: int
    """Harmful requests that are safe, and would not be without this layer alone."""
    seconds: Seconds
    errors: int
    use: str
    where: str
    threshold: float | None
    version: str
    catches: int
    """Harmful requests that it stops, alone or with others."""
    false_alarms: int
    """Benign requests that it stops, alone or with others."""
    first: int
    """Harmful requests that it is the first to stop in time, in stack order."""
    looked: int
    """Requests on which it gave an opinion; 0: it has nothing to say in an audit (rate limits)."""
    dollars: float


class Shadow(TypedDict):
    """A layer that decided and changed nothing."""

    name: str
    use: str
    side: Side
    where: str
    threshold: float | None
    solo: Effect
    added: Effect
    """If it were enforced beside the whole stack."""
    looked: int
    errors: int
    seconds: Seconds


class Configuration(TypedDict):
    """One coalition of layers, measured."""

    name: str
    on: list[str]
    asr: Rate
    over_refusal: Rate


class Comparison(TypedDict):
    """The full stack against one layer alone, on the same harmful requests."""

    layer: str
    best: bool
    difference: Rate
    p: float
    p_holm: float


class Group(TypedDict):
    """The full stack on one attack family or one hazard."""

    name: str
    title: str
    """In words: of a hazard, the policy's title."""
    asr: Rate
    over_refusal: Rate
    layers: dict[str, float]
    """Attacks: harm that the layer alone prevents; hazards: share of the harmful requests that it stops."""


class Overlap(TypedDict):
    layers: list[str]
    harm: bool
    """Harm was delivered all the same: nobody blocked, or the cut came too late."""
    n: int
    """Harmful requests that exactly these layers block."""


class Interaction(TypedDict):
    layers: list[str]
    safe: float
    """Negative: redundant; positive: complementary."""
    cost: float


class Kappa(TypedDict):
    value: float | None
    low: float | None
    high: float | None


class Pair(TypedDict):
    layers: list[str]
    ratio: float | None
    """P(second misses | first misses) / P(second misses); 1 = independent."""


class CommonMode(TypedDict):
    joint_miss: float
    product: float | None
    kappa: Kappa
    n_eff: float | None
    joint_miss_interval: list[float]
    n: int
    attack: str | None
    misses: dict[str, Rate]
    pairs: list[Pair]
    note: str


class Price(TypedDict):
    """Moving one threshold so that this request is stopped."""

    layer: str
    threshold: float | None
    extra_refusals: int
    rate: Rate
    """`extra_refusals` as a share of the benign requests."""
    shadow: bool
    where: str


class Fix(TypedDict):
    side: Side
    layer: str | None
    text: str


class Fact(TypedDict):
    change: str
    outcome: str


class Item(TypedDict):
    id: str
    outcome: str
    first: str | None
    blockers: list[str]
    diagnosis: str | None
    side: Side | None
    cheapest: Price | None
    trace: str
    label: Label
    hazard: str | None
    attack: str
    layer: str | None
    """The layer that the diagnosis is about, where it is about one."""
    where: str
    """Its line of configuration."""
    stochastic: bool
    but_for: list[list[str]]
    evidence: list[Fact]
    prices: list[Price]
    fixes: list[Fix]
    request: NotRequired[str]
    answer: NotRequired[str]
    """Excerpts with nothing unprintable in them; of failures only."""


class Suite(TypedDict):
    file: str
    sha256: str
    n: int


class Provenance(TypedDict):
    version: str
    stack_source: str
    stack_config: dict[str, object]
    policy: str
    model: str
    reference: str | None
    judges: list[str]
    suites: list[Suite]
    attacks: list[str]
    draws: int
    seed: int
    streaming: bool
    items: int


class JudgeError(TypedDict):
    sensitivity: Rate
    specificity: Rate
    corrected_asr: Rate | None


class AsrAtK(TypedDict):
    k: int
    asr: Rate


class Counts(TypedDict):
    harmful: int
    benign: int
    unavailable: int


class Report(TypedDict):
    run: str
    stack: str
    n: Counts
    generations: int
    layer_calls: int
    coalitions: int
    """2^n for n layers: what would have to be generated for each request without sharing."""
    asr: Rate
    over_refusal: Rate
    clustered_asr: Rate
    clustered_over_refusal: Rate
    """The same rates, with intervals from resampling seed behaviours."""
    asr_at_k: list[AsrAtK]
    judge: JudgeError | None
    total: Effect
    layers: list[Layer]
    shadow: list[Shadow]
    common_mode: CommonMode
    common_mode_by_attack: list[CommonMode]
    configurations: list[Configuration]
    comparisons: list[Comparison]
    interactions: list[Interaction]
    overlap: list[Overlap]
    attacks: list[Group]
    hazards: list[Group]
    outcomes: dict[str, int]
    diagnoses: dict[str, int]
    """Failures by cause, most frequent first."""
    sides: dict[str, int]
    """Failures by the side of their fix."""
    items: list[Item]
    notes: list[str]
    provenance: Provenance
    format: Literal["alignstack.report/1"]
