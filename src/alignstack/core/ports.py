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
    """How to draw tokens. None leaves the choice to the model. Draws are comparable only where input and sampling are
    identical."""

    seed: int | None = 0
    temperature: float | None = 0.0
    """0 is greedy."""
    top_p: float | None = 1.0
    max_tokens: int | None = 256
    more: str = ""
    """JSON object of further keys of the request, in the words of `/chat/completions` (`tools`, `stop`,
    `response_format`, `logprobs` …): model servers get them as they are, models that run here do without."""


Kind = Literal["text", "refusal", "reasoning", "call"]


@dataclass(slots=True, kw_only=True)
class Delta:
    """The next piece of an answer. Not to be changed; it is not frozen because there is one for every token, and a
    frozen one takes thrice the time to make."""

    text: str
    """Of a tool call: the next piece of its arguments."""
    tokens: int = 1
    kind: Kind = "text"
    """`refusal` and `reasoning` are texts that servers send apart from the answer; `call` is part of a tool call."""
    index: int = 0
    """Which tool call of this answer, from 0."""
    call_id: str = ""
    """With the first piece of a tool call."""
    name: str = ""
    """Of the tool, with the first piece of a call."""
    more: str = ""
    """JSON object of further keys of the choice that the piece came in (`logprobs`)."""

    @property
    def read(self) -> str:
        """What layers read of it: everything of it that the model made up."""
        return f"\n{self.name} {self.text}" if self.name else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The last item of every stream."""

    reason: Literal["stop", "length", "tool_calls", "content_filter"]
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    """The input did not fit and was cut before the model saw it."""
    cost: float = 0.0
    """US dollars."""
    model: str = ""
    """Who says that it answered, where that is not the client's `name`."""
    more: str = ""
    """JSON object of what else the server counted, in the words of chat completions' `usage`."""


class ModelClient(Protocol):
    """One way to get tokens. `stream` ends with exactly one `Finish` or raises `ModelUnavailable`; closing it early
    stops generation. Pieces without text and name are dropped, unless they are the first of a tool call."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Hash of all that decides the output, given messages and sampling."""
        ...

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]: ...


class TraceStore(Protocol):
    """Keeps traces by id."""

    def put(self, trace: Trace) -> None: ...
    def get(self, trace_id: str) -> Trace: ...  # raises NotFound
    def recent(self, limit: int) -> list[Trace]: ...
