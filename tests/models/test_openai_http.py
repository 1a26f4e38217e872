"""Against real servers: one that behaves, and raw sockets that do not."""

import asyncio
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from alignstack.core.errors import ModelUnavailable
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models import http
from alignstack.models.openai_http import OpenAIHTTP, OpenAIHTTPConfig
from alignstack.policy.strict import problems
from tests.models.servers import chunk, head, raw_server, server

SAMPLING = Sampling(seed=7, temperature=0.5, max_tokens=9)


def model(base_url: str, **keys: object) -> OpenAIHTTP:
    return OpenAIHTTP(OpenAIHTTPConfig.model_validate({"base_url": base_url, "model": "m", "max_retries": 0, **keys}))


async def items(client: OpenAIHTTP) -> list[Delta | Finish]:
    try:
        return [item async for item in client.stream(user("hi"), SAMPLING)]
    finally:
        await client.aclose()


async def answer(client: OpenAIHTTP) -> str:
    return "".join(item.text for item in await items(client) if isinstance(item, Delta))


async def failure(client: OpenAIHTTP) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        await items(client)
    return str(caught.value)


# ---------------------------------------------------------------- servers that work


async def test_an_answer_arrives_piece_by_piece_with_usage_and_cost() -> None:
    seen: dict[str, object] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.update(await request.json(), key=request.headers["Authorization"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        usage = {"prompt_tokens": 1000, "completion_tokens": 500}
        for part in (chunk(""), chunk("Hel"), b": ping\n\n", chunk("lo"), chunk(finish="length")):
            await response.write(part)
        await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async with server(handler) as url:
        got = await items(model(url, api_key="k", input_price=1, output_price=4, extra={"top_k": 5, "seed": None}))
    assert got == [
        Delta(text="Hel"),
        Delta(text="lo"),
        Finish(reason="length", input_tokens=1000, output_tokens=500, cost=0.003),
    ]
    assert seen["messages"] == [{"role": "user", "content": "hi"}]
    assert (seen["model"], seen["stream"], seen["max_tokens"], seen["temperature"]) == ("m", True, 9, 0.5)
    assert (seen["top_k"], "seed" in seen, seen["key"]) == (5, False, "Bearer k")


@pytest.mark.parametrize("count", ["true", "9" * 400, "-1", "1e400", "null"])
async def test_token_counts_that_cannot_be_are_not_believed(count: str) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": %s}}\n\n' % count.encode()
    async with raw_server(head(), chunk("Hi"), chunk(finish="stop"), usage) as url:
        got = await items(model(url, output_price=1e6))
    assert got == [Delta(text="Hi"), Finish(reason="stop", input_tokens=2, output_tokens=1, cost=1.0)]


async def test_a_server_that_does_not_stream_is_understood() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        choice = {"message": {"content": "Hello"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    async with server(handler) as url:
        assert await items(model(url)) == [
            Delta(text="Hello"),
            Finish(reason="stop", input_tokens=3, output_tokens=1),
        ]


async def test_carriage_returns_split_events_and_a_missing_done_are_understood() -> None:
    event = chunk("é", "stop").strip()
    parts = [head(), b"event: message\r\nid: 1\r\n", event[:9], 0.01, event[9:], b"\r\n\r\n"]
    async with raw_server(*parts) as url:
        assert await answer(model(url)) == "é"


async def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    async with raw_server(head(), chunk("a\ud800b", "stop")) as url:
        assert await answer(model(url)) == "a\ufffdb"


async def test_text_that_json_cannot_hold_as_utf8_is_sent_all_the_same() -> None:
    async with raw_server(head(), chunk("ok", "stop")) as url:
        client = model(url)
        asked = (Message(role="user", content="\ud800"),)
        got = [item async for item in client.stream(asked, SAMPLING)]
        await client.aclose()
    assert got[0] == Delta(text="ok")


async def test_unknown_finish_reasons_count_as_stop() -> None:
    for reason, expected in {"function_call": "tool_calls", "content_filter": "content_filter", "eos": "stop"}.items():
        async with raw_server(head(), chunk("x", reason)) as url:
            assert (await items(model(url)))[-1] == Finish(reason=expected, output_tokens=1)  # type: ignore[arg-type]


async def test_closing_early_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(chunk("x"))
                await asyncio.sleep(0.005)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    async with server(handler) as url:
        client = model(url)
        stream = client.stream(user("hi"), SAMPLING)
        assert await anext(stream) == Delta(text="x")
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(gone.wait(), 5)
        await client.aclose()


async def test_connections_are_kept_and_used_again() -> None:
    connections: set[object] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        connections.add(request.transport)
        await asyncio.sleep(0.02)
        return web.Response(body=chunk("x", "stop"), content_type="text/event-stream")

    async with server(handler) as url:
        client = model(url)

        async def ask() -> list[Delta | Finish]:
            return [item async for item in client.stream(user("hi"), SAMPLING)]

        assert len(await asyncio.gather(*(ask() for _ in range(20)))) == 20
        assert len(connections) == 20
        for _ in range(5):
            assert await ask()
        assert len(connections) == 20
        await client.aclose()
        assert await ask()
        assert len(connections) == 21
        await client.aclose()


@pytest.mark.filterwarnings("error")
def test_kept_connections_close_with_their_loop_even_without_aclose() -> None:
    kept: list[http.Wire] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=chunk("x", "stop"), content_type="text/event-stream")

    async def ask() -> None:
        async with server(handler) as url:
            client = model(url)
            assert [item async for item in client.stream(user("hi"), SAMPLING)]
            pool = await client._server.wires._pool(asyncio.get_running_loop())
            kept.extend(pool.idle)

    asyncio.run(ask())
    gc.collect()
    assert len(kept) == 1 and not kept[0].open


# ---------------------------------------------------------------- what is sent


async def sent(
    messages: Sequence[Message] = user("hi"), sampling: Sampling = SAMPLING, *, whole: bool = False, **keys: object
) -> dict[str, Any]:
    """The body of the request."""
    bodies: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]})

    async with server(handler) as url:
        client = model(url, **keys)
        assert [item async for item in (client.answer if whole else client.stream)(messages, sampling)]
        await client.aclose()
    return bodies[0]


async def test_what_is_left_open_is_left_out() -> None:
    free = Sampling(seed=None, temperature=None, top_p=None, max_tokens=None)
    body = await sent(sampling=free)
    assert sorted(body) == ["messages", "model", "stream", "stream_options"]
    assert body["stream_options"] == {"include_usage": True}
    assert sorted(await sent(sampling=free, whole=True)) == ["messages", "model", "stream"]


async def test_further_keys_of_a_request_are_sent_but_those_that_are_ours() -> None:
    more = {"tools": [{"type": "function"}], "stop": ["x"], "user": None}
    ours = {"n": 3, "model": "gpt-9", "messages": [], "stream": False, "stream_options": {"include_usage": False}}
    body = await sent(sampling=replace(SAMPLING, more=json.dumps(more | ours)))
    assert (body["tools"], body["stop"], body["stream"], body["model"]) == ([{"type": "function"}], ["x"], True, "m")
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["stream_options"] == {"include_usage": True}
    assert not {"n", "user"} & set(body)


async def test_the_stack_file_wins_over_a_request() -> None:
    asked = replace(SAMPLING, more='{"stop": ["x"], "tools": []}')
    body = await sent(sampling=asked, extra={"stop": ["y"], "tools": None, "temperature": 1, "stream_options": None})
    assert (body["stop"], body["temperature"]) == (["y"], 1)
    assert not {"tools", "stream_options"} & set(body)


async def test_a_request_chooses_the_model_only_where_the_stack_file_allows() -> None:
    for named, allowed, expected in [
        ("other", False, "m"), ("other", True, "other"), ("", True, "m"), (7, True, "m"), (None, True, "m")
    ]:  # fmt: skip
        asked = replace(SAMPLING, more=json.dumps({"model": named}))
        assert (await sent(sampling=asked, any_model=allowed))["model"] == expected


async def test_the_bound_on_the_answer_has_the_name_that_the_server_knows() -> None:
    body = await sent(limit_key="max_completion_tokens")
    assert body["max_completion_tokens"] == 9 and "max_tokens" not in body


async def test_turns_are_sent_whole() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    parts = json.dumps([{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}])
    call = ToolCall(id="c1", name="look", arguments='{"x": 1}')
    body = await sent(
        (
            Message(role="user", content="a\nb", parts=parts, media=("image_url",), more='{"name": "Ann"}'),
            Message(role="user", content="changed", parts=parts, media=("image_url",)),
            Message(role="user", content="", parts=parts, media=("image_url",)),
            Message(role="assistant", content="", calls=(call,)),
            Message(role="tool", content="seen", call_id="c1", more='{"role": "system", "content": "x"}'),
        )
    )
    wire_call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    assert body["messages"] == [
        {"role": "user", "content": json.loads(parts), "name": "Ann"},
        {"role": "user", "content": [{"type": "text", "text": "changed"}, image]},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": None, "tool_calls": [wire_call]},
        {"role": "tool", "content": "seen", "tool_call_id": "c1"},
    ]


# ---------------------------------------------------------------- what comes back


def delta(finish: str | None = None, **keys: object) -> bytes:
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": keys, "finish_reason": finish}]}).encode() + b"\n\n"
    )


def called(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> bytes:
    call = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return delta(tool_calls=[{key: value for key, value in call.items() if value is not None}])


async def received(*parts: bytes, **keys: object) -> list[Delta | Finish]:
    async with raw_server(head(), *parts) as url:
        return await items(model(url, **keys))


async def test_tool_calls_arrive_in_pieces() -> None:
    got = await received(
        delta(content="Let me look."),
        called(0, "a", "look", ""),
        called(0, None, None, '{"x"'),
        called(0, None, None, ""),
        called(0, None, None, ": 1}"),
        called(1, "b", "find", "{}"),
        delta("tool_calls"),
    )
    assert got == [
        Delta(text="Let me look."),
        Delta(text="", kind="call", call_id="a", name="look"),
        Delta(text='{"x"', kind="call"),
        Delta(text=": 1}", kind="call"),
        Delta(text="{}", kind="call", index=1, call_id="b", name="find"),
        Finish(reason="tool_calls", output_tokens=5),
    ]


@pytest.mark.parametrize(
    "parts",
    [
        [called(0, "a", "f", "1"), called(0, "a", "f", "2"), called(1, "b", "g", "3"), called(1, "b", "g", "4")],
        [
            called(None, "a", "f", "1"),
            called(None, None, None, "2"),
            called(None, "b", "g", "3"),
            called(None, None, None, "4"),
        ],
        [called(0, "a", "f", "1"), called(0, None, None, "2"), called(0, "b", "g", "3"), called(0, "b", "g", "4")],
        [called(5, "a", "f", "1"), called(5, None, None, "2"), called(9, "b", "g", "34")],
    ],
)
async def test_calls_of_careless_servers_are_told_apart(parts: list[bytes]) -> None:
    calls = [item for item in await received(*parts, delta("tool_calls")) if isinstance(item, Delta)]
    assert [(call.call_id, call.name, call.index) for call in calls if call.name] == [("a", "f", 0), ("b", "g", 1)]
    texts = ["".join(call.text for call in calls if call.index == index) for index in (0, 1)]
    assert texts == ["12", "34"]


async def test_refusals_and_reasoning_are_told_apart_from_the_answer() -> None:
    got = await received(
        delta(reasoning_content="hm"),
        delta(reasoning="ah", content="so"),
        delta(refusal="no"),
        delta("stop", reasoning={}),
    )
    assert got[:-1] == [
        Delta(text="hm", kind="reasoning"),
        Delta(text="ah", kind="reasoning"),
        Delta(text="so"),
        Delta(text="no", kind="refusal"),
    ]


async def test_log_probabilities_travel_with_their_piece() -> None:
    said = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
    choice = {"delta": {"content": "a"}, "logprobs": said, "finish_reason": "stop"}
    got = await received(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert isinstance(got[0], Delta) and json.loads(got[0].more) == {"logprobs": said}


async def test_details_of_the_usage_and_the_servers_name_for_the_model_are_kept() -> None:
    usage = {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    last = {"choices": [], "usage": usage, "model": "m-2025"}
    got = await received(chunk("a", "stop", usage=None, model="m-2025"), b"data: %b\n\n" % json.dumps(last).encode())
    assert got[-1] == Finish(
        reason="stop",
        input_tokens=4,
        output_tokens=2,
        model="m-2025",
        more='{"prompt_tokens_details":{"cached_tokens":3}}',
    )
    assert (await received(chunk("a", "stop", model="m")))[-1] == Finish(reason="stop", output_tokens=1)


async def test_a_whole_answer_is_asked_for_and_counted_in_one_piece() -> None:
    asked: list[object] = []
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}] * 2
    calls[1] = calls[1] | {"id": "b"}
    message = {"role": "assistant", "content": "Hello there.", "refusal": None, "tool_calls": calls}

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json())["stream"])
        usage = {"prompt_tokens": 3, "completion_tokens": 12}
        return web.json_response({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage})

    async with server(handler) as url:
        client = model(url)
        got = [item async for item in client.answer(user("hi"), SAMPLING)]
        await client.aclose()
    assert asked == [False]
    assert got == [
        Delta(text="Hello there.", tokens=10),
        Delta(text="{}", kind="call", call_id="a", name="f"),
        Delta(text="{}", kind="call", index=1, call_id="b", name="f"),
        Finish(reason="tool_calls", input_tokens=3, output_tokens=12),
    ]


async def test_a_whole_answer_may_take_longer_than_a_stream_may_be_silent() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}).encode()
    async with raw_server(0.4, head("application/json"), body) as url:
        client = model(url, idle_timeout_s=0.1, timeout_s=5)
        assert await anext(client.answer(user("hi"), SAMPLING)) == Delta(text="x")
        await client.aclose()


async def test_events_in_any_legal_form_are_read() -> None:
    plain = chunk("a").strip()
    first, second = chunk("d", "stop").strip().removeprefix(b"data: ").split(b", ", 1)
    for part in (
        plain + b"\n\n",
        plain.replace(b"data: ", b"data:") + b"\n\n",
        b": comment\n" + plain + b"\nid: 3\n\n\n\n",
        plain + b"\r\n\r\n",
        b"event: x\n" + plain + b"\n\n",
        b"data\n\n".replace(b"data", b"retry: 10") + plain + b"\n\n",
    ):
        ending = b"data: " + first + b",\ndata: " + second + b"\n\n"
        got = await received(*[(part + ending)[i : i + 1] for i in range(len(part + ending))])
        assert got == [Delta(text="a"), Delta(text="d"), Finish(reason="stop", output_tokens=2)]


# ---------------------------------------------------------------- servers that fail

GARBAGE = "sent something that is not an event stream"
HOSTILE: dict[str, tuple[list[bytes | float], str]] = {
    "closes at once": ([], "closed the connection without an answer"),
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"], "sent something that is not HTTP"),
    "web page": ([head("text/html"), b"<html>login</html>"], "answered with a web page"),
    "web page as a stream": ([head(), b"<html>\n</html>\n"], GARBAGE),
    "noise": ([head(), bytes(range(256)) * 40], GARBAGE),
    "invalid JSON": ([head(), b'data: {"choices": [\n\n'], "sent invalid JSON"),
    "deep JSON": ([head(), b"data: " + b"[" * 100_000 + b"\n\n"], "sent invalid JSON"),
    "JSON that is no object": ([head(), b"data: 3\n\n"], "sent JSON that is no object"),
    "no choices": ([head(), b'data: {"hello": 1}\n\n'], "sent a chunk without choices"),
    "choices of another kind": ([head(), b'data: {"choices": [1]}\n\n'], "sent a chunk without choices"),
    "content of another kind": ([head(), b'data: {"choices": [{"delta": {"content": [1]}}]}\n\n'], "is no text"),
    "delta of another kind": ([head(), b'data: {"choices": [{"delta": [1]}]}\n\n'], "is no text"),
    "not UTF-8": ([head(), b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'], "not UTF-8"),
    "error in the stream": (
        [head(), chunk("x"), b'data: {"error": {"message": "out of memory"}}\n\n'],
        "out of memory",
    ),
    "ends early": ([head(), chunk("a"), chunk("b")], "ended the stream before the answer was finished"),
    "ends in mid-event": ([head(), chunk("a"), chunk("b", "stop")[:20]], "ended the stream before"),
    "done without an end": ([head(), b"data: [DONE]\n\n"], "ended the stream before"),
    "empty": ([head()], "ended the stream before"),
    "drops in mid-chunk": (
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n99\r\ndata:"],
        "dropped the connection in mid-answer",
    ),
    "shorter than it says": (
        [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"],
        "dropped the connection in mid-answer",
    ),
    "not JSON at all": ([head("application/json"), b"null"], "sent JSON that is no object"),
    "hangs": ([5.0], "did not finish within 0.3 s (timeout_s)"),
    "hangs in the head": ([b"HTTP/1.1 200 OK\r\nContent-", 5.0], "did not finish within 0.3 s"),
    "hangs in the stream": ([head(), chunk("a"), 5.0], "did not finish within 0.3 s"),
    "drips": ([head(), *[b": wait\n\n", 0.1] * 20], "did not finish within 0.3 s"),
    "unknown status": ([b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"], "answered HTTP 418"),
    "redirect": ([b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"], "HTTP 302"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_server_ends_in_one_clear_sentence(name: str) -> None:
    parts, what = HOSTILE[name]
    started = time.perf_counter()
    async with raw_server(*parts) as url:
        message = await failure(model(url, timeout_s=0.3))
        assert message.startswith(f"model server '{url}' ") and what in message and "\n" not in message
    assert time.perf_counter() - started < 2


async def test_what_came_before_the_drop_was_streamed() -> None:
    async with raw_server(head(), chunk("a"), chunk("b")) as url:
        client, got = model(url), []
        with pytest.raises(ModelUnavailable):
            async for item in client.stream(user("hi"), SAMPLING):
                got.append(item)
        await client.aclose()
    assert got == [Delta(text="a"), Delta(text="b")]


async def test_refused_connections_and_unknown_hosts_are_told_apart() -> None:
    async with raw_server() as url:
        pass
    assert "cannot be reached: connection refused" in await failure(model(url))
    assert "its host name is not known" in await failure(model("http://host.invalid/v1", timeout_s=5))


async def test_endless_streams_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BYTES", 2**20)
    monkeypatch.setattr(http, "MAX_EVENT", 2**16)
    async with raw_server(head(), *[chunk("x" * 1000) * 100] * 50) as url:
        assert "sent more than 1 MiB without an end" in await failure(model(url))
    async with raw_server(head(), *[b"data: " + b"x" * 9000] * 50) as url:
        assert "sent a line that does not end" in await failure(model(url))


async def test_busy_servers_are_asked_again_and_hard_errors_are_not() -> None:
    calls: list[int] = []
    statuses = [503, 429, 200]

    async def handler(request: web.Request) -> web.StreamResponse:
        calls.append(statuses[len(calls) % len(statuses)])
        if calls[-1] != 200:
            return web.Response(status=calls[-1], headers={"Retry-After": "0.01"})
        return web.Response(body=chunk("x", "stop"), content_type="text/event-stream")

    async with server(handler) as url:
        assert await answer(model(url, max_retries=2)) == "x"
        assert calls == [503, 429, 200]
        assert "(asked 2 times) answered HTTP 429" in await failure(model(url, max_retries=1))
        statuses[:] = [401]
        calls.clear()
        assert "answered HTTP 401" in await failure(model(url, max_retries=5))
        assert calls == [401]


async def test_retries_never_outlast_the_timeout() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": "600"})

    async with server(handler) as url:
        started = time.perf_counter()
        assert "HTTP 503" in await failure(model(url, max_retries=5, timeout_s=2))
        assert time.perf_counter() - started < 1


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    asked = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(body=chunk("x"), content_type="text/event-stream")

    async with server(handler) as url:
        await failure(model(url, max_retries=3))
    assert asked == 1


async def test_error_texts_are_quoted_without_keys_queries_or_control_characters() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        said = f"bad key {request.headers['Authorization']}\x1b[31m\n" + "x" * 999
        return web.json_response({"error": {"message": said}}, status=401)

    async with server(handler) as url:
        address = url.replace("http://", "http://me:pw@") + "?api-version=hidden"
        message = await failure(model(address, api_key="sk-secret"))
    assert message.startswith(f"model server '{url}' answered HTTP 401: bad key Bearer *** [31m xxx")
    assert len(message) < 400
    assert not any(secret in message for secret in ("secret", "pw", "me:", "hidden"))


async def test_errors_carry_status_and_retry_after() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "7"})

    async with server(handler) as url:
        with pytest.raises(ModelUnavailable) as caught:
            await items(model(url))
    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)


@pytest.mark.parametrize(
    ("parts", "keys", "status", "what"),
    [
        ([5.0], {"timeout_s": 0.2}, 504, "did not finish within 0.2 s (timeout_s)"),
        ([5.0], {"idle_timeout_s": 0.2}, 504, "sent nothing for 0.2 s (idle_timeout_s)"),
        ([head(), chunk("a"), 5.0], {"idle_timeout_s": 0.2}, 504, "sent nothing for 0.2 s (idle_timeout_s)"),
        ([head(), chunk("a")], {}, 0, "ended the stream before"),
    ],
)
async def test_our_own_time_outs_count_as_504(
    parts: list[bytes | float], keys: dict[str, object], status: int, what: str
) -> None:
    async with raw_server(*parts) as url:
        with pytest.raises(ModelUnavailable) as caught:
            await items(model(url, **keys))
    assert caught.value.status == status and what in str(caught.value)


async def test_a_stream_that_keeps_coming_is_not_idle() -> None:
    async with raw_server(head(), *[chunk("a"), 0.15] * 6, chunk("b", "stop")) as url:
        assert await answer(model(url, idle_timeout_s=0.8)) == "aaaaaab"


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"base_url": "localhost:8000"}, "base_url: should be an address like http://HOST:PORT/v1"),
        ({"base_url": "ftp://x/v1"}, "base_url: should be an address"),
        ({"base_url": "http://x:99999/v1"}, "base_url: should be an address"),
        ({"api_key": "hunter2\nX: y"}, "api_key: should be printable ASCII"),
        ({"timeout_s": 0}, "timeout_s: should be greater than 0"),
        ({"extra": {"messages": [], "stream": False}}, "extra: cannot set messages, stream"),
        ({"api_kye": "hunter2"}, "api_kye: unknown key; did you mean 'api_key'?"),
    ],
)
def test_bad_keys_are_named_and_their_values_are_not(keys: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenAIHTTPConfig.model_validate({"base_url": "http://x/v1", "model": "m", **keys})
    message = str(problems(caught.value, "s.yaml", OpenAIHTTPConfig, "model")[0])
    assert message.startswith(f"s.yaml: model.{what}") and "hunter2" not in message


def test_the_version_follows_what_decides_the_answer_and_not_the_key() -> None:
    assert model("http://x/v1", api_key="a").version == model("http://x/v1", api_key="b").version
    assert model("http://x/v1").version != model("http://x/v1", extra={"top_k": 1}).version
    assert model("http://x/v1").version != model("http://x/v1", any_model=True).version
    assert "hunter2" not in repr(model("http://x/v1", api_key="hunter2")._config)
