"""The gateway's routes as an OpenAPI document. Of requests it says what the gateway checks itself; other keys go to
the model server as they came."""

from collections.abc import Mapping
from typing import Any

from alignstack import __version__
from alignstack.gateway.dialects.chat import MAX_CHOICES
from alignstack.gateway.dialects.fields import MAX_TOKENS
from alignstack.gateway.dialects.messages import NOT_HERE as NOT_IN_MESSAGES
from alignstack.gateway.dialects.moderations import MAX_INPUTS
from alignstack.gateway.dialects.responses import NOT_HERE as NOT_IN_RESPONSES
from alignstack.gateway.dialects.responses import STORED

Schema = dict[str, Any]

FAILURES: Mapping[int, str] = {
    400: "The request is wrong, or a layer blocked it and the stack says `on_block: error` (`code: content_filter`)",
    401: "No API key, or one that is not valid",
    403: "The key may not do this, or is suspended; or the Host or Origin is not one that is served",
    404: "There is no such thing",
    405: "The path takes another method",
    408: "The request did not arrive in time",
    413: "The request is too large",
    415: "The request is compressed",
    429: "A limit or budget is spent; `retry-after` says for how long",
    500: "The gateway failed",
    502: "The model server failed",
    503: "The gateway or the model server cannot take requests now",
    504: "The model server did not answer in time",
}
ON_READ = (401, 403, 405, 500)
ON_SCORE = (*ON_READ, 400, 408, 413, 415, 429, 503)
ON_ASK = (*ON_SCORE, 502, 504)


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "alignstack gateway", "version": __version__},
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": {
            "/v1/chat/completions": _ask("chat", "ChatRequest", "ChatCompletion"),
            "/v1/responses": _ask("responses", "ResponsesRequest", "Response"),
            "/v1/messages": _ask("messages", "MessagesRequest", "Message", error="AnthropicError"),
            "/v1/moderations": _moderations(),
            "/v1/models": _read("models", "The model of the stack", _json("Models"), ON_READ),
            "/v1/models/{model}": {
                "parameters": [MODEL],
                **_read("model", "One model", _json("Model"), (*ON_READ, 404)),
            },
            "/metrics": _read("metrics", "For Prometheus", {"text/plain": {"schema": TEXT}}, (*ON_READ, 404)),
            "/health": _open("health", "The process answers", {}),
            "/ready": _open("ready", "It can take requests", {503: "It cannot, and why"}),
            "/openapi.json": _open("document", "This document", {}),
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _ask(name: str, request: str, answer: str, *, error: str = "Error") -> Schema:
    content = {**_json(answer), "text/event-stream": {}}
    responses = {"200": _response("The answer; server-sent events with `stream: true`", content)}
    return {"post": _operation(name, {**responses, **_failures(ON_ASK, error)}, request)}


def _moderations() -> Schema:
    responses = {"200": _response("What the request layers say of each input", _json("Moderation"))}
    return {"post": _operation("moderations", {**responses, **_failures(ON_SCORE)}, "ModerationRequest")}


def _read(name: str, what: str, content: Schema, failures: tuple[int, ...]) -> Schema:
    return {"get": _operation(name, {"200": _response(what, content), **_failures(failures)})}


def _open(name: str, what: str, others: Mapping[int, str]) -> Schema:
    """A route that needs no key."""
    content = {"application/json": {"schema": {"type": "object"}}}
    responses = {str(status): _response(text, content) for status, text in {200: what, **others}.items()}
    return {"get": {**_operation(name, {**responses, **_failures((405, 500))}), "security": []}}


def _operation(name: str, responses: Schema, request: str = "") -> Schema:
    body = {"requestBody": {"required": True, "content": _json(request)}} if request else {}
    return {"operationId": name, **body, "responses": responses}


def _failures(statuses: tuple[int, ...], error: str = "Error") -> Schema:
    return {str(status): _response(FAILURES[status], _json(error)) for status in sorted(statuses)}


def _response(what: str, content: Schema) -> Schema:
    return {"description": what, "headers": {"x-request-id": {"schema": TEXT}}, "content": content}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": ["boolean", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS}
NOTHING: Schema = {"enum": [None, False, 0, "", [], {}]}
"""Taken as if the key were not there."""
MODEL: Schema = {"name": "model", "in": "path", "required": True, "schema": WORD}


def _objects(required: Mapping[str, Schema], optional: Mapping[str, Schema | bool] | None = None) -> Schema:
    """An object; keys beyond those named are allowed, those that are False are not."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list(items: Schema, *, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": at_least}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _up_to(high: float) -> Schema:
    return {"type": ["number", "null"], "minimum": 0, "maximum": high}


def _is(word: str) -> Schema:
    return {"const": word}


SAMPLING: Mapping[str, Schema] = {
    "model": _or_null(TEXT),
    "stream": FLAG,
    "temperature": _up_to(2),
    "top_p": _up_to(1),
}
PERSON: Mapping[str, Schema] = {"safety_identifier": _or_null(TEXT), "user": _or_null(TEXT)}

HOST = r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}"
ADDRESS: Schema = {
    "type": "string",
    "pattern": rf"^(data:|https?://{HOST}(/[A-Za-z0-9._~%/-]*)?$)",
    "description": "a `data:` URL, or a public address where `serve.image_urls` allows those",
}
BLOCK = _objects({"type": _is("text"), "text": TEXT})
TEXT_PART = _objects({"type": _is("text"), "text": TEXT}, {"refusal": _or_null(TEXT)})
REFUSAL_PART = _objects({"type": _is("refusal"), "refusal": TEXT}, {"text": _or_null(TEXT)})
IMAGE_PART = _objects({"type": _is("image_url"), "image_url": _objects({"url": ADDRESS})})
OTHER_PART = _objects(
    {"type": {"type": "string", "maxLength": 64, "not": {"enum": ["text", "refusal"]}}},
    {"text": _or_null(TEXT), "refusal": _or_null(TEXT)},
)
"""Counts as media, which no layer reads; its texts are read."""
PARTS = _list({"anyOf": [TEXT_PART, REFUSAL_PART, IMAGE_PART, OTHER_PART]})
CONTENT: Schema = {"anyOf": [TEXT, PARTS]}
FUNCTION = _objects({"name": TEXT, "arguments": TEXT})
TOOL_CALL: Schema = {
    "anyOf": [
        _objects({"id": TEXT, "function": FUNCTION}, {"type": _is("function")}),
        _objects({"id": TEXT, "type": _is("custom"), "custom": _objects({"name": TEXT, "input": TEXT})}),
    ]
}


CHAT_TURNS: list[Schema] = [
    _objects({"role": {"enum": ["system", "developer"]}, "content": CONTENT}, {"name": _or_null(TEXT)}),
    _objects({"role": _is("user"), "content": CONTENT}, {"name": _or_null(TEXT)}),
    _objects(
        {"role": _is("assistant")},
        {
            "content": {"anyOf": [TEXT, PARTS, {"type": "null"}]},
            "refusal": _or_null(TEXT),
            "tool_calls": _or_null(_list(TOOL_CALL)),
            "function_call": _or_null(FUNCTION),
        },
    ),
    _objects({"role": _is("tool"), "content": CONTENT, "tool_call_id": TEXT}),
    _objects({"role": _is("function"), "content": CONTENT}, {"name": _or_null(TEXT)}),
]
STAGE = _or_null(_objects({"mode": {"enum": ["score", "block"]}}))
CHAT_REQUEST = _objects(
    {"messages": _list({"anyOf": CHAT_TURNS}, at_least=1)},
    {
        **SAMPLING,
        **PERSON,
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "max_tokens": _or_null(TOKENS),
        "max_completion_tokens": _or_null(TOKENS),
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHOICES},
        "stream_options": _or_null(_objects({}, {"include_usage": FLAG})),
        "moderation": _or_null(
            _objects({"model": TEXT}, {"policy": _or_null(_objects({}, {"input": STAGE, "output": STAGE}))})
        ),
    },
)

RESPONSES_TURN = _objects(
    {
        "role": {"enum": ["system", "developer", "user"]},
        "content": {"anyOf": [TEXT, _list(_objects({"type": _is("input_text"), "text": TEXT}))]},
    },
    {"type": {"anyOf": [_is("message"), NOTHING]}},
)
RESPONSES_REQUEST = _objects(
    {"input": {"anyOf": [TEXT, _list(RESPONSES_TURN, at_least=1)]}},
    {
        **SAMPLING,
        **PERSON,
        "instructions": _or_null(TEXT),
        "max_output_tokens": _or_null(TOKENS),
        **dict.fromkeys(STORED, NOTHING),
        **dict.fromkeys(NOT_IN_RESPONSES, False),
    },
)

OF_ANYBODY = ("text", "image", "document", "search_result")


def _messages_turn(role: str, known: tuple[str, ...]) -> Schema:
    """Blocks of a type that is not known count as media."""
    other = _objects({"type": {"type": "string", "minLength": 1, "not": {"enum": known}}})
    return _objects({"role": _is(role), "content": {"anyOf": [TEXT, _list({"anyOf": [BLOCK, other]}, at_least=1)]}})


MESSAGES_TURNS = [
    _messages_turn("user", (*OF_ANYBODY, "tool_result")),
    _messages_turn("assistant", (*OF_ANYBODY, "tool_use", "thinking", "redacted_thinking")),
]
MESSAGES_TOOL = _objects({"name": WORD, "input_schema": {"type": "object"}})
MESSAGES_REQUEST = _objects(
    {"max_tokens": TOKENS, "messages": _list({"anyOf": MESSAGES_TURNS}, at_least=1)},
    {
        **SAMPLING,
        "system": {"anyOf": [TEXT, _list(BLOCK), {"type": "null"}]},
        "metadata": _or_null(_objects({}, {"user_id": _or_null(TEXT)})),
        "stop_sequences": {"anyOf": [_list(TEXT), NOTHING]},
        "tools": {"anyOf": [_list(MESSAGES_TOOL), NOTHING]},
        **dict.fromkeys(NOT_IN_MESSAGES, False),
    },
)

MODERATION_PART: Schema = {"anyOf": [BLOCK, _objects({"type": _is("image_url")})]}
MODERATION_REQUEST = _objects(
    {
        "input": {
            "anyOf": [
                TEXT,
                {**_list(TEXT, at_least=1), "maxItems": MAX_INPUTS},
                {**_list(MODERATION_PART, at_least=1), "maxItems": MAX_INPUTS},
            ]
        }
    },
    {"model": TEXT},
)

FLAGS: Schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
SCORES: Schema = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
ONE_MODEL = _objects({"id": TEXT, "object": _is("model"), "created": COUNT, "owned_by": TEXT})

SCHEMAS: Mapping[str, Schema] = {
    "ChatRequest": CHAT_REQUEST,
    "ResponsesRequest": RESPONSES_REQUEST,
    "MessagesRequest": MESSAGES_REQUEST,
    "ModerationRequest": MODERATION_REQUEST,
    "ChatCompletion": _objects(
        {
            "id": TEXT,
            "object": _is("chat.completion"),
            "created": COUNT,
            "model": TEXT,
            "choices": _list(_objects({"index": COUNT, "message": {"type": "object"}, "finish_reason": TEXT})),
            "usage": _objects({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}),
        }
    ),
    "Response": _objects(
        {"id": TEXT, "object": _is("response"), "model": TEXT, "status": TEXT, "output": _list({"type": "object"})}
    ),
    "Message": _objects(
        {
            "id": TEXT,
            "type": _is("message"),
            "role": _is("assistant"),
            "model": TEXT,
            "content": _list({"type": "object"}),
            "stop_reason": TEXT,
            "usage": _objects({"input_tokens": COUNT, "output_tokens": COUNT}),
        }
    ),
    "Moderation": _objects(
        {
            "id": TEXT,
            "model": TEXT,
            "results": _list(
                _objects({"flagged": {"type": "boolean"}, "categories": FLAGS, "category_scores": SCORES})
            ),
        }
    ),
    "Model": ONE_MODEL,
    "Models": _objects({"object": _is("list"), "data": _list(ONE_MODEL)}),
    "Error": _objects({"error": _objects({"message": TEXT, "type": TEXT})}),
    "AnthropicError": _objects({"type": _is("error"), "error": _objects({"type": TEXT, "message": TEXT})}),
}
