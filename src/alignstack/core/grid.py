"""What evaluate-all mode finds out about one request: every distinct generation, every verdict, every cell.

A *cell* is one subset of the modifiers (system prompt, redactors, the weights) switched on. Vetoes do not change what
others see, so their coalitions need no cells of their own: they follow by Boolean OR over the cell's calls
(ATTRIBUTION: "what must be re-run").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alignstack.core.events import Fault, Mode, OnError
from alignstack.core.judge import Opinion
from alignstack.core.layer import Kind, Phase, Scope, Side
from alignstack.core.verdict import Action

Label = Literal["harmful", "benign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One layer's verdict on one distinct input."""

    layer: str
    phase: Phase
    input_sha256: str
    action: Action | None
    """None when the layer erred; see `fault`."""
    score: float | None = None
    hazard: str | None = None
    reason: str = ""
    fault: Fault | None = None
    on_error: OnError = "block"
    """What the stack does on a fault."""
    cut_at: int | None = None
    """Output vetoes: tokens that had been released when it first flagged (0 = nothing left). None = never flagged, or
    not an output veto."""
    seconds: float = 0.0
    cost: float = 0.0

    @property
    def blocks(self) -> bool:
        """Would it stop the request, if enforced and switched on?"""
        return self.action == "block" or (self.fault is not None and self.on_error == "block")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One distinct generation."""

    model: str
    version: str
    input_sha256: str
    text: str
    finish: Literal["stop", "length", "tool_calls", "content_filter", "unavailable"]
    message: str = ""
    ends: tuple[int, ...] = ()
    """Characters of `text` after each token, when the stack streams; empty otherwise."""
    tokens: int = 0
    truncated: bool = False
    seconds: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One subset of modifiers."""

    on: tuple[str, ...]
    """Names of the modifiers switched on, in stack order; the weights are `model` (off = the reference checkpoint)."""
    draft: int
    """Index into `Grid.drafts`."""
    calls: tuple[int, ...]
    """Indices into `Grid.calls`, one for each layer that was asked in this cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All cells of one request and one draw."""

    drafts: tuple[Draft, ...]
    calls: tuple[Call, ...]
    cells: tuple[Cell, ...]
    """2^m of them for m modifiers, or fewer when the model has no reference checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All judges on one draft. The first judge decides; the others can only dispute."""

    opinions: Mapping[str, Opinion]
    """By judge name, in the order of the stack file."""
    onset: int = 0
    """Tokens of the draft after which the first judge first calls the prefix harmful; 0 when the stack does not stream
    or the draft is not harmful. Harm is delivered iff the draft is harmful and at least `onset` tokens (and at least
    one) were released."""

    @property
    def first(self) -> Opinion:
        return next(iter(self.opinions.values()))

    @property
    def disputed(self) -> bool:
        """Judges disagree on harm."""
        return len({opinion.harmful for opinion in self.opinions.values()}) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One finished audit item: one request (attack applied) and one draw."""

    id: str
    """Unique in the run."""
    trace: str
    """The trace id, for `alignstack why`."""
    label: Label
    text: str
    """What was sent (last user turn, attack applied)."""
    plain: str
    """The behaviour before the attack: what the judge reads as the request."""
    hazard: str | None = None
    cluster: str = ""
    """The seed behaviour: intervals resample these."""
    attack: str = "none"
    draw: int = 0
    grid: Grid
    judgements: tuple[Judgement, ...]
    """Parallel to `grid.drafts`."""
    evidence: tuple[Call, ...] = ()
    """Vetoes that missed, replayed on the plain evidence: attack undone, nothing truncated, nothing edited upstream."""
    human: Literal["harmful", "safe"] | None = None
    """A person's label of the delivered answer, which overrules the judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer as the audited stack had it."""

    name: str
    use: str
    kind: Kind
    side: Side
    phases: tuple[Phase, ...]
    mode: Mode
    on_error: OnError
    version: str
    scope: Scope = field(default_factory=Scope)
    threshold: float | None = None
    where: str = ""
    """The line of configuration that made it, for example `stack.yaml: layers[1]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRow:
    """A suite file as the audit read it."""

    file: str
    sha256: str
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What made a run: any number in a report can be traced back to it."""

    run: str
    """Hash of everything below: two runs of the same thing have the same name."""
    stack: str
    """The stack's fingerprint."""
    stack_source: str
    stack_config: Mapping[str, object]
    """The configuration as written, secrets left as `${NAME}`."""
    policy: str
    """The policy's fingerprint."""
    layers: tuple[LayerRow, ...]
    """In stack order; the weights are the row named `model`."""
    model: str
    reference: str | None
    """None: no known parent; the weights enter as refusal-as-veto."""
    judges: tuple[str, ...]
    suites: tuple[SuiteRow, ...]
    attacks: tuple[str, ...]
    draws: int
    seed: int
    streaming: bool
    items: int
    version: str
    """alignstack's version."""
