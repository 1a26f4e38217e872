"""What OpenTelemetry is told of a request, by its conventions for generative AI: every name stands here.

One request is one `alignstack.request` span with a child for every look of a layer and one for the generation. Events
carry how long they took and not when they began, so where a child lies within its parent is worked out from the order
of phases; the length of each is as measured. What clients and models wrote, and what layers quote of it, is only in
what `content` and `quote` return.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from alignstack.core.events import LayerError, LayerEvent, ModelEvent
from alignstack.core.messages import Message
from alignstack.core.trace import Trace

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOKEN_TYPE = "gen_ai.token.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

TRACE_ID = "alignstack.trace_id"
STACK = "alignstack.stack"
ROUTE = "alignstack.route"
STATUS = "alignstack.status"
BLOCKED_BY = "alignstack.blocked_by"
FIRST_TOKEN_S = "alignstack.first_token_seconds"
COST = "alignstack.cost_usd"
LAYER_NAME = "alignstack.layer.name"
LAYER_PHASE = "alignstack.layer.phase"
LAYER_MODE = "alignstack.layer.mode"
LAYER_ACTION = "alignstack.layer.action"
LAYER_SCORE = "alignstack.layer.score"
LAYER_THRESHOLD = "alignstack.layer.threshold"
LAYER_HAZARD = "alignstack.layer.hazard"
LAYER_VERSION = "alignstack.layer.version"
LAYER_AT_TOKEN = "alignstack.layer.at_token"
LAYER_REASON = "alignstack.layer.reason"
LAYER_ON_ERROR = "alignstack.layer.on_error"

REQUEST_SPAN = "alignstack.request"
LAYER_SPAN = "alignstack.layer"

DURATION = "gen_ai.server.request.duration"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"
TOKEN_USAGE = "gen_ai.client.token.usage"

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""Both as the conventions advise."""

Values = dict[str, Any]
"""Attributes; those that are None are left out (`given`)."""

Child = LayerEvent | LayerError | ModelEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Who answers."""

    provider: str
    """In the words of the conventions where they have one: `openai` for all that speak its API."""
    address: str | None = None
    port: int | None = None


UNKNOWN = Upstream(provider="alignstack")
_PROVIDERS = {"openai_http": "openai", "anthropic_http": "anthropic"}
_PORTS = {"http": 80, "https": 443}


def upstream(model: Mapping[str, Any]) -> Upstream:
    """From the `model` of a stack file, as written: an address that comes from the environment stays unknown. Of others
    host and port are kept."""
    provider = _PROVIDERS.get(str(model.get("use")), UNKNOWN.provider)
    written = str(model.get("base_url", ""))
    try:
        address = urlsplit("" if "$" in written else written)
        return Upstream(provider=provider, address=address.hostname, port=address.port or _PORTS.get(address.scheme))
    except ValueError:
        return Upstream(provider=provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One request, and what its trace does not say."""

    trace: Trace
    status: str
    """A `core.usage.Status`."""
    route: str | None = None
    upstream: Upstream = UNKNOWN
    stream: bool = False
    first_token_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that name the parent: `traceparent`, `tracestate`."""


def who(finished: Finished, model: str | None) -> Values:
    """Whose answer it is: what spans and metrics share."""
    return {
        OPERATION: "chat",
        PROVIDER: finished.upstream.provider,
        REQUEST_MODEL: model,
        SERVER_ADDRESS: finished.upstream.address,
        SERVER_PORT: finished.upstream.port,
    }


def root(finished: Finished) -> Values:
    """Of the span that is the request."""
    trace = finished.trace
    return {
        TRACE_ID: trace.id,
        STACK: trace.stack,
        ROUTE: finished.route,
        STATUS: finished.status,
        FIRST_TOKEN_S: finished.first_token_s,
        BLOCKED_BY: _blocker(trace) if finished.status in ("blocked", "cut") else None,
        ERROR_TYPE: "unavailable" if finished.status == "unavailable" else None,
    }


def _blocker(trace: Trace) -> str | None:
    """The first layer that enforced a block."""
    for event in trace.layer_events:
        refused = event.on_error == "block" if isinstance(event, LayerError) else event.verdict.action == "block"
        if refused and event.mode == "enforce":
            return event.layer
    return None


def generation(event: ModelEvent, finished: Finished) -> Values:
    """Of the span that is the model's answer."""
    failed = event.finish == "unavailable"
    return {
        **who(finished, event.model),
        REQUEST_STREAM: True if finished.stream else None,
        RESPONSE_ID: finished.trace.id,
        RESPONSE_MODEL: event.answered or event.model,
        FINISH_REASONS: None if failed else [event.finish],
        INPUT_TOKENS: event.input_tokens,
        OUTPUT_TOKENS: event.output_tokens,
        COST: event.cost or None,
        ERROR_TYPE: str(event.status or "unavailable") if failed else None,
    }


def layer(event: LayerEvent | LayerError) -> Values:
    """Of the span that is one look of a layer."""
    more = _verdict(event) if isinstance(event, LayerEvent) else _fault(event)
    return more | {
        LAYER_NAME: event.layer,
        LAYER_PHASE: event.phase,
        LAYER_MODE: event.mode,
        LAYER_VERSION: event.version,
    }


def _verdict(event: LayerEvent) -> Values:
    said = event.verdict
    return {
        LAYER_ACTION: said.action,
        LAYER_SCORE: said.score,
        LAYER_THRESHOLD: said.threshold,
        LAYER_HAZARD: said.hazard,
        LAYER_AT_TOKEN: event.at_token,
        COST: said.cost or None,
    }


def _fault(event: LayerError) -> Values:
    return {ERROR_TYPE: event.fault, LAYER_ON_ERROR: event.on_error}


def quote(event: LayerEvent | LayerError) -> Values:
    """Why, in a layer's own words, which may hold the client's."""
    return {LAYER_REASON: event.verdict.reason if isinstance(event, LayerEvent) else event.message}


def content(event: ModelEvent) -> Values:
    """What went into the model and what came out, as the conventions write it."""
    answer = {"role": "assistant", "parts": [{"type": "text", "content": event.text}], "finish_reason": event.finish}
    return {
        INPUT_MESSAGES: json.dumps([_turn(message) for message in event.messages]),
        OUTPUT_MESSAGES: json.dumps([answer]),
    }


def _turn(message: Message) -> Values:
    if message.role == "tool":
        answer = {"type": "tool_call_response", "id": message.call_id, "response": message.content}
        return {"role": "tool", "parts": [answer]}
    texts = [{"type": "text", "content": message.content}] if message.content else []
    calls = [{"type": "tool_call", "id": c.id, "name": c.name, "arguments": c.arguments} for c in message.calls]
    return {"role": message.role, "parts": [*texts, *calls]}


def placed(trace: Trace) -> list[tuple[Child, float]]:
    """Every span with the second of the request at which it probably began: vetoes of one phase at the same time, the
    model when what acts before it is done, a look at a stream when its tokens were there."""
    before = max((_waited(event) for event in trace.layer_events if event.phase in ("request", "prompt")), default=0.0)
    said, total = trace.generation, trace.outcome.seconds if trace.outcome else 0.0
    model_at = min(before, max(0.0, total - said.seconds)) if said else before
    spans: list[tuple[Child, float]] = []
    for event in trace.events:
        if isinstance(event, ModelEvent):
            spans.append((event, model_at))
        elif isinstance(event, LayerEvent | LayerError):
            early = event.phase in ("request", "prompt")
            spans.append((event, 0.0 if early else model_at + _spoken(event, said)))
    return spans


def _waited(event: LayerEvent | LayerError) -> float:
    return event.seconds if event.mode == "enforce" else 0.0


def _spoken(event: LayerEvent | LayerError, said: ModelEvent | None) -> float:
    """Seconds of the generation that had passed when an output layer looked."""
    if said is None:
        return 0.0
    tokens = event.at_token if isinstance(event, LayerEvent) else None
    share = min(1.0, tokens / said.output_tokens) if tokens is not None and said.output_tokens else 1.0
    return said.seconds * share


def given(values: Values) -> Values:
    """What there is of `values`, in a form that can be sent."""
    return {
        key: clean(value) if isinstance(value, str) else value for key, value in values.items() if value is not None
    }


def clean(text: str) -> str:
    """Half a surrogate pair, which JSON can spell, would keep the whole batch from being sent."""
    return text.encode("utf-8", "replace").decode()
