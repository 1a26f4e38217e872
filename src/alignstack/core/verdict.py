"""What one layer said about what it saw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alignstack.core.messages import Conversation

Action = Literal["allow", "modify", "block", "escalate", "abstain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` to `end` (end exclusive) of the text that the layer saw."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision, never a crash: a layer that could not look says `abstain`, one that broke is a `LayerError` event.

    `allow` and `block` are about the text seen; `modify` replaces it; `escalate` asks a later layer to look.
    """

    action: Action
    score: float | None = None
    """Confidence that the text is harmful, in [0, 1]; None where the layer does not score."""
    threshold: float | None = None
    """The score at which this layer blocks, where it has one."""
    hazard: str | None = None
    """Canonical hazard id (`alignstack.policy`)."""
    categories: Mapping[str, float] = field(default_factory=dict)
    """Score in [0, 1] per hazard id."""
    reason: str = ""
    """One line for the operator. Never shown to the client."""
    spans: tuple[Span, ...] = ()
    messages: Conversation | None = None
    """With `modify` before the model: the conversation the model sees instead."""
    text: str | None = None
    """With `modify` after the model: the text delivered instead."""
    cost: float = 0.0
    """Money, in US dollars, that this check cost."""


ALLOW = Verdict(action="allow")
