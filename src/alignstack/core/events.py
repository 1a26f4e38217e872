"""Everything that happened to a request is an event with a literal tag: one union, read by the store, the report,
the web page and attribution alike."""

from dataclasses import dataclass
from typing import Literal

from alignstack.core.layer import Phase
from alignstack.core.messages import Conversation
from alignstack.core.verdict import Verdict

Mode = Literal["enforce", "shadow"]
OnError = Literal["block", "allow"]
Fault = Literal["error", "timeout"]
Status = Literal["delivered", "blocked", "cut", "unavailable", "abandoned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """The conversation as the client sent it."""

    messages: Conversation
    caller: str = ""
    event: Literal["request"] = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEvent:
    """One layer's verdict on one view."""

    layer: str
    phase: Phase
    mode: Mode
    verdict: Verdict
    version: str
    input_sha256: str
    """`View.digest` of what the layer saw."""
    at_token: int | None = None
    """Output layers on streams: tokens of the draft seen when this verdict fell."""
    seconds: float = 0.0
    event: Literal["layer"] = "layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """A layer that crashed or ran out of time; what follows is `on_error`, never a silent allow."""

    layer: str
    phase: Phase
    mode: Mode
    fault: Fault
    on_error: OnError
    message: str
    version: str
    input_sha256: str
    seconds: float = 0.0
    event: Literal["layer_error"] = "layer_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvent:
    """One generation."""

    model: str
    version: str
    input_sha256: str
    """`core.messages.digest` of the exact conversation the model saw."""
    messages: Conversation
    text: str
    finish: Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "unavailable"]
    refused: bool = False
    """The server sent words as a refusal, apart from the answer (`Delta.kind`)."""
    message: str = ""
    """Why, when it was unavailable."""
    status: int = 0
    """HTTP status of a model server that was unavailable (`ModelUnavailable.status`)."""
    retry_after: float | None = None
    """Seconds after which that server wants to be asked again."""
    answered: str = ""
    """`Finish.model`: who says that it answered."""
    usage: str = ""
    """`Finish.more`."""
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    seed: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    event: Literal["model"] = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeEvent:
    """How it ended for the client."""

    status: Status
    """`blocked`: nothing but the refusal text; `cut`: a stream ended early; `unavailable`: no answer could be had;
    `abandoned`: the client went away."""
    delivered: str
    """The text the client received."""
    released_tokens: int = 0
    seconds: float = 0.0
    event: Literal["outcome"] = "outcome"


Event = RequestEvent | LayerEvent | LayerError | ModelEvent | OutcomeEvent
