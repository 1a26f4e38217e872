"""The Messages API against real servers; requests are checked against the types of Anthropic's own client."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from pydantic import TypeAdapter, ValidationError

from alignstack.core.errors import ModelUnavailable
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models.anthropic_http import AnthropicHTTP, AnthropicHTTPConfig
from tests.models.servers import head, raw_server, server

FREE = Sampling(seed=None, temperature=None, top_p=None, max_tokens=None)


def model(base_url: str, **keys: object) -> AnthropicHTTP:
    settings = {"base_url": base_url, "model": "claude", "max_retries": 0, **keys}
    return AnthropicHTTP(AnthropicHTTPConfig.model_validate(settings))


# ---------------------------------------------------------------- what is sent


async def sent(
    messages: Sequence[Message] = user("hi"), sampling: Sampling = FREE, *, whole: bool = False, **keys: object
) -> dict[str, Any]:
    """The body of the request, which the API would take."""
    bodies: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append({**await request.json(), "headers": request.headers})
        return web.json_response({"type": "message", "content": [], "stop_reason": "end_turn", "usage": {}})

    async with server(handler, "/v1/messages") as url:
        client = model(url, **keys)
        assert [item async for item in (client.answer if whole else client.stream)(messages, sampling)]
        await client.aclose()
    (body,) = bodies
    shape = MessageCreateParamsNonStreaming if whole else MessageCreateParamsStreaming
    TypeAdapter(shape).validate_python({key: value for key, value in body.items() if key != "headers"})
    return body


async def test_key_and_version_travel_in_headers() -> None:
    body = await sent(api_key="k")
    assert (body["headers"]["x-api-key"], body["headers"]["anthropic-version"]) == ("k", "2023-06-01")
    assert "Authorization" not in body["headers"]


async def test_a_plain_question_sends_what_the_api_wants_and_no_more() -> None:
    body = await sent()
    del body["headers"]
    assert body == {
        "model": "claude",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
    }
    assert (await sent(whole=True))["stream"] is False


async def test_sampling_is_translated() -> None:
    body = await sent(sampling=Sampling(seed=7, temperature=1.6, top_p=0.5, max_tokens=9))
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.5, 9)
    assert "seed" not in body and "top_p" not in await sent(sampling=Sampling())


async def test_both_forms_of_the_address_are_understood() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"type": "message", "content": [], "stop_reason": "end_turn"})

    async with server(handler, "/v1/messages") as url:
        for address in (url, f"{url}/", url.removesuffix("/v1")):
            client = model(address)
            assert [item async for item in client.stream(user("hi"), FREE)] == [Finish(reason="stop")]
            await client.aclose()


async def test_turns_are_translated() -> None:
    data = "data:image/png;base64,QUJD"
    parts = [
        {"type": "text", "text": "look"},
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
    ]
    call, other = ToolCall(id="a", name="f", arguments='{"x": 1}'), ToolCall(id="b", name="g", arguments="no JSON")
    body = await sent(
        (
            Message(role="system", content="Be kind."),
            Message(role="user", content="look\n", parts=json.dumps(parts), media=("image_url",), more='{"name": "A"}'),
            Message(role="assistant", content="", calls=(call, other)),
            Message(role="tool", content="seen", call_id="a"),
            Message(role="tool", content="", call_id="b"),
            Message(role="user", content="and now?"),
            Message(role="system", content="Be brief."),
        )
    )
    assert body["system"] == "Be kind.\n\nBe brief."
    asked, called, answered = body["messages"]
    assert asked == {
        "role": "user",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
        ],
    }
    assert called["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"arguments": "no JSON"}},
    ]
    assert answered == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "seen"}]},
            {"type": "tool_result", "tool_use_id": "b", "content": []},
            {"type": "text", "text": "and now?"},
        ],
    }


async def test_changed_text_stands_before_what_is_no_text() -> None:
    parts = [{"type": "text", "text": "old"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    body = await sent((Message(role="user", content="new", parts=json.dumps(parts), media=("image_url",)),))
    assert [block.get("text") for block in body["messages"][0]["content"]] == ["new", None]


async def test_tools_stops_and_formats_are_translated_and_the_rest_is_left_out() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    more = {
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema, "strict": True}},
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": "END",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        "reasoning_effort": "low",
        "top_k": 5,
        "logprobs": True,
        "frequency_penalty": 1,
        "n": 2,
        "messages": [],
        "model": "claude-9",
    }
    body = await sent(sampling=replace(FREE, more=json.dumps(more)))
    assert body["tools"] == [
        {"name": "f", "input_schema": schema, "description": "d", "strict": True},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert (body["stop_sequences"], body["top_k"], body["model"]) == (["END"], 5, "claude")
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    assert not {"logprobs", "frequency_penalty", "n", "stop", "response_format"} & set(body)


@pytest.mark.parametrize(
    ("asked", "parallel", "expected"),
    [
        ("auto", None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
    ],
)
async def test_tool_choice(asked: object, parallel: object, expected: object) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    more = {"tools": tools, "tool_choice": asked, "parallel_tool_calls": parallel}
    assert (await sent(sampling=replace(FREE, more=json.dumps(more)))).get("tool_choice") == expected


async def test_the_stack_file_wins_over_a_request() -> None:
    asked = replace(FREE, temperature=0.5, more='{"model": "claude-9", "stop": ["x"], "top_k": 1}')
    body = await sent(
        sampling=asked, any_model=True, extra={"top_k": 9, "temperature": None, "metadata": {"user_id": "u"}}
    )
    assert (body["model"], body["top_k"], body["metadata"]) == ("claude-9", 9, {"user_id": "u"})
    assert "temperature" not in body
    with pytest.raises(ValidationError, match="cannot set system"):
        model("http://x", extra={"system": "x"})


# ---------------------------------------------------------------- what comes back


def event(kind: str, **keys: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **keys})}\n\n".encode()


def begins(usage: dict[str, object] | None = None) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-1"}
    return event("message_start", message={**message, "stop_reason": None, "usage": usage or {"input_tokens": 5}})


def block(index: int, start: dict[str, object], *deltas: dict[str, object]) -> bytes:
    return b"".join(
        [
            event("content_block_start", index=index, content_block=start),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    )


def text(index: int, *pieces: str) -> bytes:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def ends(reason: str, output_tokens: object = 3) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=delta, usage={"output_tokens": output_tokens}) + event("message_stop")


async def received(*parts: bytes, **keys: object) -> list[Delta | Finish]:
    async with raw_server(head(), *parts) as url:
        client = model(url, **keys)
        try:
            return [item async for item in client.stream(user("hi"), FREE)]
        finally:
            await client.aclose()


async def test_an_answer_arrives_piece_by_piece_with_usage_and_cost() -> None:
    usage: dict[str, object] = {"input_tokens": 4, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 5}
    got = await received(
        begins(usage), event("ping"), text(0, "Hel", "", "lo"), ends("end_turn"), input_price=1, output_price=2
    )
    assert got == [
        Delta(text="Hel"),
        Delta(text="lo"),
        Finish(
            reason="stop",
            input_tokens=10,
            output_tokens=3,
            cost=16e-6,
            model="claude-1",
            more='{"prompt_tokens_details":{"cached_tokens":5}}',
        ),
    ]


async def test_thinking_and_tool_calls_are_told_apart() -> None:
    got = await received(
        begins(),
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "xyz"},
        ),
        block(1, {"type": "redacted_thinking", "data": "xyz"}),
        block(
            2,
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"query": "x"}'},
        ),
        block(
            3,
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"x":'},
            {"type": "input_json_delta", "partial_json": "1}"},
        ),
        block(4, {"type": "tool_use", "id": "b", "name": "g", "input": {}}),
        ends("tool_use"),
    )
    assert got[:-1] == [
        Delta(text="hm", kind="reasoning"),
        Delta(text="", kind="call", call_id="a", name="f"),
        Delta(text='{"x":', kind="call"),
        Delta(text="1}", kind="call"),
        Delta(text="", kind="call", index=1, call_id="b", name="g"),
        Delta(text="{}", kind="call", index=1),
    ]
    assert isinstance(got[-1], Finish) and got[-1].reason == "tool_calls"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something new", "stop"),
    ],
)
async def test_reasons(said: str, reason: str) -> None:
    got = await received(begins(), text(0, "x"), ends(said))
    assert isinstance(got[-1], Finish) and got[-1].reason == reason


async def test_a_whole_answer_is_read() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]
    usage = {"input_tokens": 2, "output_tokens": 20}

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"type": "message", "model": "claude", "content": content, "stop_reason": "tool_use", "usage": usage}
        )

    async with server(handler, "/v1/messages") as url:
        client = model(url)
        got = [item async for item in client.answer(user("hi"), FREE)]
        await client.aclose()
    assert got == [
        Delta(text="hm", kind="reasoning", tokens=17),
        Delta(text="Hello."),
        Delta(text='{"x":1}', kind="call", call_id="a", name="f"),
        Delta(text="{}", kind="call", index=1, call_id="b", name="g"),
        Finish(reason="tool_calls", input_tokens=2, output_tokens=20),
    ]


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([begins(), event("error", error={"type": "overloaded_error", "message": "Busy"})], "an error: Busy"),
        ([begins(), text(0, "x")], "ended the stream before"),
        ([event("message_stop")], "ended the stream before"),
        ([b"data: {}\n\n"], "without a type"),
        ([b"data: [1]\n\n"], "no object"),
        ([b"data: {\n\n"], "invalid JSON"),
        ([b'data: {"type": "content_block_delta", "delta": 1}\n\n'], "does not have"),
        ([b'data: {"type": "message_start", "message": {"content": "x"}}\n\n'], "does not have"),
        ([b'data: {"type": "content_block_delta", "delta": {"text": "\xff"}}\n\n'], "not UTF-8"),
    ],
)
async def test_servers_that_fail_are_named(parts: list[bytes], what: str) -> None:
    with pytest.raises(ModelUnavailable, match=what):
        await received(*parts)


async def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    got = await received(begins(), text(0, "a\ud800b"), ends("end_turn"))
    assert got[0] == Delta(text="a\ufffdb")


@pytest.mark.parametrize("count", [True, -1, 10**10, "3", None])
async def test_token_counts_that_cannot_be_are_not_believed(count: object) -> None:
    got = await received(begins(), text(0, "x"), ends("end_turn", count))
    assert isinstance(got[-1], Finish) and got[-1].output_tokens == 1


async def test_errors_carry_status_retry_after_and_the_servers_words() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        error = {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": f"slow {request.headers['x-api-key']}"},
        }
        return web.json_response(error, status=429, headers={"Retry-After": "3"})

    async with server(handler, "/v1/messages") as url:
        client = model(url, api_key="sk-secret")
        with pytest.raises(ModelUnavailable, match=r"answered HTTP 429: slow \*\*\*") as caught:
            await anext(client.stream(user("hi"), FREE))
        await client.aclose()
    assert (caught.value.status, caught.value.retry_after) == (429, 3.0)


def test_the_version_follows_what_decides_the_answer_and_not_the_key() -> None:
    assert model("http://x", api_key="a").version == model("http://x", api_key="b").version
    assert model("http://x").version != model("http://x", extra={"top_k": 1}).version
