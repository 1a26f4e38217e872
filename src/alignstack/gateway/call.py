"""What every dialect decodes to and encodes from. Layers and engine know none of the dialects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from alignstack.core.messages import Conversation
from alignstack.core.ports import Delta, Sampling
from alignstack.core.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, decoded."""

    messages: Conversation
    sampling: Sampling = field(
        default_factory=lambda: Sampling(seed=None, temperature=None, top_p=None, max_tokens=None)
    )
    """What the client left out is None here; the gateway then takes what the stack file says."""
    model: str = ""
    """As the client wrote it."""
    stream: bool = False
    n: int = 1
    """Answers wanted."""
    include_usage: bool = False
    """A stream ends with what was used (`stream_options.include_usage`)."""
    person: str = ""
    """`safety_identifier`, or `user` / `metadata.user_id` where the dialect has no such key."""
    moderation: Literal["", "score", "block"] = ""
    """Per request: `score` runs the layers as shadows and reports what they say, `block` also acts on it."""
    echo: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the request that the dialect repeats in its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of an answer before it begins."""

    id: str
    """The trace id; dialects put their own prefix before it."""
    created: float
    """Seconds since 1970."""
    model: str


Reason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one answer ended for the client."""

    reason: Reason = "stop"
    """`content_filter` whenever a layer blocked or cut it."""
    blocked: bool = False
    """By a layer, whichever; not when the model itself declined."""
    input_tokens: int = 0
    output_tokens: int = 0
    usage: str = ""
    """JSON object: further counts, in the words of chat completions' `usage`."""
    trace: Trace | None = None
    """For dialects that report verdicts on request (`Call.moderation`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One whole answer."""

    pieces: Sequence[Delta]
    """What was delivered; of a blocked request the refusal, as one piece."""
    ending: Ending


class Refused(Exception):
    """The gateway answers with an HTTP error. Dialects give it their own shape."""

    def __init__(
        self, status: int, message: str, *, kind: str, code: str = "", param: str = "", headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        """OpenAI's `error.type`: `invalid_request_error`, `authentication_error`, `permission_error`,
        `not_found_error`, `rate_limit_error`, `insufficient_quota`, `server_error`."""
        self.code = code
        """OpenAI's `error.code`, for example `content_filter`."""
        self.param = param
        """The key of the request that is wrong."""
        self.headers = headers


def bad_request(message: str, *, param: str = "", code: str = "") -> Refused:
    """400: the client's own mistake."""
    return Refused(400, message, kind="invalid_request_error", code=code, param=param)


class Events(Protocol):
    """Encodes one streamed answer. Each method returns the bytes to send, perhaps none; the caller sends them in the
    order of the calls and calls exactly one of `end` and `error`, last."""

    def start(self) -> bytes: ...
    def pieces(self, choice: int, pieces: Sequence[Delta]) -> bytes: ...
    def finish(self, choice: int, ending: Ending) -> bytes: ...
    def end(self, endings: Sequence[Ending]) -> bytes: ...
    def error(self, problem: Refused) -> bytes: ...


class Dialect(Protocol):
    """One HTTP API for asking a model. Stateless."""

    name: str
    """`chat`, `responses`, `messages`."""

    def decode(self, body: bytes) -> Call: ...  # raises Refused (400), naming the key and what would be right
    def whole(self, call: Call, head: Head, choices: Sequence[Choice]) -> bytes: ...
    def events(self, call: Call, head: Head) -> Events: ...
    def error(self, problem: Refused) -> bytes: ...
