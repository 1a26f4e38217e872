"""Seams to the outside world; whoever implements one lives on a higher floor and comes in as an argument."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from alignstack.core.messages import Message
from alignstack.core.trace import Trace


class Clock(Protocol):
    """`now()` is wall time in seconds since 1970; `tick()` is monotonic seconds, for durations."""

    def now(self) -> float: ...
    def tick(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw tokens. Draws are comparable only where input and sampling are identical."""

    seed: int = 0
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The next piece of an answer."""

    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The last item of every stream."""

    reason: Literal["stop", "length", "content_filter"]
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    """The input did not fit and was cut before the model saw it."""
    cost: float = 0.0
    """US dollars."""


class ModelClient(Protocol):
    """One way to get tokens. `stream` ends with exactly one `Finish` or raises `ModelUnavailable`; closing it early
    stops generation."""

    name: str
    version: str
    """Hash of all that decides the output, given messages and sampling."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]: ...


class TraceStore(Protocol):
    """Keeps traces by id."""

    def put(self, trace: Trace) -> None: ...
    def get(self, trace_id: str) -> Trace: ...  # raises NotFound
    def recent(self, limit: int) -> list[Trace]: ...
