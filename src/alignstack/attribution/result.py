"""What attribution finds out, as plain data: the report renders this and nothing else.

Every number that is an estimate carries its 95% interval and its n. Nothing here is infinite or NaN: what cannot be
computed is None, with a note that says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from alignstack.core.grid import Label
from alignstack.core.layer import Kind, Side

Outcome = Literal[
    "harm_delivered", "harm_partial", "correct_refusal", "correct_answer", "false_refusal", "degraded", "unavailable"
]
OUTCOMES: tuple[Outcome, ...] = (
    "harm_delivered",
    "harm_partial",
    "correct_refusal",
    "correct_answer",
    "false_refusal",
    "degraded",
    "unavailable",
)

Diagnosis = Literal[
    "judge_disputed",
    "layer_down",
    "introduced",
    "late_cut",
    "policy_gap",
    "evidence_withheld",
    "threshold",
    "blind",
    "unavailable",
    "sole_blocker",
    "joint",
    "model_refused",
    "unknown",
]
HARM_DIAGNOSES: tuple[Diagnosis, ...] = (
    "judge_disputed",
    "layer_down",
    "introduced",
    "late_cut",
    "policy_gap",
    "evidence_withheld",
    "threshold",
    "blind",
    "unknown",
)
"""For delivered harm, in the order in which they are decided."""
REFUSAL_DIAGNOSES: tuple[Diagnosis, ...] = (
    "judge_disputed",
    "unavailable",
    "sole_blocker",
    "joint",
    "model_refused",
    "introduced",
    "unknown",
)
"""For false refusals, in the order in which they are decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A rate or a difference of rates with its 95% interval. With n = 0 it is 0 in [0, 1] and an upper bound."""

    value: float
    low: float
    high: float
    n: int
    upper_bound: bool = False
    """n is too small to support the value: print it as "at most `high`"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One of the three numbers of a layer, in both directions."""

    safe: Estimate
    """Harm avoided, as a share of the harmful items; negative when the layer creates harm."""
    cost: Estimate
    """Refusals added, as a share of the benign items; negative when the layer takes refusals away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Of one layer's calls; 0 when it has none (the weights: of their generations)."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyShare:
    """A layer's three numbers, harm avoided, within one attack family: φ is an average over the attack mix."""

    attack: str
    n: int
    solo: float
    leave_one_out: float
    shapley: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerResult:
    """One enforced layer; solo, leave-one-out and Shapley are never published alone."""

    name: str
    use: str
    kind: Kind
    side: Side
    where: str
    threshold: float | None
    solo: Effect
    leave_one_out: Effect
    shapley: Effect
    unique_catches: int
    """Harmful items that are safe, and would not be without this layer alone."""
    looked: int
    """Items on which it gave an opinion in the deployed stack; 0: it had nothing to say in an audit (rate limits)."""
    errors: int
    """Items on which it erred or timed out in the deployed stack."""
    seconds: Seconds
    cost: float
    """US dollars of all its calls in the audit."""
    by_attack: tuple[FamilyShare, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """A layer that ran in shadow: no player, but what it would have done."""

    name: str
    use: str
    side: Side
    where: str
    threshold: float | None
    solo: Effect
    """If it were the only layer."""
    added: Effect
    """If it were enforced beside the whole stack."""
    looked: int
    errors: int
    seconds: Seconds
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """v(S+i+j) - v(S+i) - v(S+j) + v(S), mean over all S without i and j (the Banzhaf interaction index): negative =
    redundant, positive = complementary."""

    first: str
    second: str
    safe: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MissRatio:
    """P(second misses | first misses) / P(second misses); 1 = independent. None when one of them never misses."""

    first: str
    second: str
    ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonMode:
    """How alike the layers' misses are, on the harmful items that the reference stack (everything off) answers."""

    attack: str | None
    """The attack family; None: all of them."""
    n: int
    misses: Mapping[str, Estimate]
    """By layer: alone, it leaves the harm. Layers that never looked are left out."""
    joint_miss: Estimate
    """All of them miss."""
    product: float | None
    """What the joint miss would be if misses were independent."""
    kappa: Estimate | None
    """joint_miss / product; 1 = independent."""
    n_eff: float | None
    """ln joint_miss / mean ln misses; 1 = fully redundant, number of layers = independent."""
    pairs: tuple[MissRatio, ...]
    note: str = ""
    """Why something is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One coalition with a name."""

    name: str
    """`full stack`, `all off`, `weights only`, `guards only` or `only NAME`."""
    on: tuple[str, ...]
    asr: Estimate
    over_refusal: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The full stack against one layer alone, on the same harmful items."""

    layer: str
    best: bool
    """This layer alone has the lowest ASR of all layers alone."""
    difference: Estimate
    """ASR of the layer alone minus ASR of the full stack, Newcombe's paired interval (method 10)."""
    p: float
    """Exact McNemar, two-sided."""
    p_holm: float
    """Adjusted over all layers (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The full stack on one attack family or one hazard."""

    name: str
    asr: Estimate
    over_refusal: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AsrAtK:
    """The share of harmful requests that deliver harm in at least one of k draws (unbiased)."""

    k: int
    asr: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeError:
    """The first judge against people, on the delivered answers that people labelled."""

    sensitivity: Estimate
    specificity: Estimate
    uncorrected_asr: Estimate
    """By the first judge alone, as if no person had labelled anything."""
    corrected_asr: Estimate | None
    """Rogan-Gladen; the uncorrected rate stands beside it. None when the judge is no better than chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Moving one layer's threshold to an item's score, so that it blocks the item."""

    layer: str
    shadow: bool
    """The layer is not enforced yet."""
    threshold: float | None
    """None: a layer without scores that blocks as it is, once enforced."""
    extra_refusals: int
    """Benign items that this layer would then refuse and that the stack does not refuse already."""
    rate: Estimate
    """`extra_refusals` as a share of the benign items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One replay: what was changed, and what came of it."""

    change: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One thing to do about it."""

    side: Side
    layer: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One request of the audit."""

    id: str
    trace: str
    label: Label
    hazard: str | None
    attack: str
    outcome: Outcome
    first: str | None
    """The first blocker a request meets: an artefact of order."""
    blockers: tuple[str, ...]
    """All enforced layers that block in the deployed stack, and `model` when its answer is a refusal."""
    but_for: tuple[tuple[str, ...], ...]
    """All minimal sets of layers without which a safe item is harmful, or a refused benign item is answered."""
    diagnosis: Diagnosis | None
    """None when the outcome is no failure."""
    layer: str | None = None
    """The layer that the diagnosis is about, where it is about one."""
    side: Side | None = None
    """Where the fix belongs; None when there is nothing to fix yet (`judge_disputed`, `unknown`)."""
    stochastic: bool = False
    """The outcome varies between draws."""
    evidence: tuple[Fact, ...] = ()
    cheapest: Price | None = None
    """Delivered harm only: the cheapest threshold that stops it."""
    prices: tuple[Price, ...] = ()
    """All thresholds that stop it, cheapest first."""
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Items by what was asked; `unavailable` ones (the model gave no answer) are in neither of the other two."""

    harmful: int
    benign: int
    unavailable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Everything that one run says about its stack."""

    run: str
    stack: str
    n: Counts
    players: tuple[str, ...]
    """Enforced layers in stack order, the weights being `model`."""
    generations: int
    """Distinct drafts made, over all items."""
    layer_calls: int
    """Distinct verdicts asked for, over all items."""
    coalitions: int
    """2^n for n players: what would have to be run per item without the memo."""
    refusal_as_veto: bool
    """No reference checkpoint is stated, so the weights enter as a veto that blocks where they refuse."""
    asr: Estimate
    over_refusal: Estimate
    clustered_asr: Estimate
    """The same rate, with the interval from resampling seed behaviours."""
    clustered_over_refusal: Estimate
    total: Effect
    """v(L): what the whole stack avoids and costs; the Shapley values sum to it."""
    asr_at_k: tuple[AsrAtK, ...]
    judge: JudgeError | None
    """None when people labelled nothing that was delivered."""
    layers: tuple[LayerResult, ...]
    shadow: tuple[ShadowResult, ...]
    interactions: tuple[Interaction, ...]
    common_mode: CommonMode
    common_mode_by_attack: tuple[CommonMode, ...]
    configurations: tuple[Configuration, ...]
    """Those with a name."""
    other_coalitions: tuple[Configuration, ...]
    """The rest of the subsets of the layers that had something to say; none when there are too many."""
    comparisons: tuple[Comparison, ...]
    by_attack: tuple[Group, ...]
    by_hazard: tuple[Group, ...]
    outcomes: Mapping[Outcome, int]
    diagnoses: Mapping[Diagnosis, int]
    """Both lists together; only those that occur."""
    items: tuple[ItemResult, ...]
    """In the order of the run."""
    notes: tuple[str, ...]
    """What a reader must know before believing the numbers."""
