import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from alignstack.core.events import LayerEvent, RequestEvent
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.ports import Delta
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.gateway.call import Call, Choice, Ending, Head, Refused
from alignstack.gateway.dialects.responses import RESPONSES

HEAD = Head(id="0af7", created=1_700_000_000.0, model="small-1")
SAID = "Hello \u2028 “you”\n"
TEXT = [Delta(text="Hel"), Delta(text="lo \u2028 “you”\n")]
FIRST, *REST = CALL = [
    Delta(text="", kind="call", index=0, call_id="call_1", name="weather"),
    Delta(text='{"city": "Os', kind="call", index=0),
    Delta(text='lo"}', kind="call", index=0),
]
SECOND = Delta(text="", kind="call", index=1, call_id="call_2", name="now")
BLOCKED = Ending(reason="content_filter", blocked=True)


def decoded(input: Any = "hi", **keys: Any) -> Call:
    return RESPONSES.decode(json.dumps({"model": "m", "input": input, **keys}).encode())


def streamed(pieces: Sequence[Delta], ending: Ending, **keys: Any) -> bytes:
    events = RESPONSES.events(decoded(**keys), HEAD)
    sent = [events.start(), *(events.pieces(0, [piece]) for piece in pieces)]
    return b"".join([*sent, events.finish(0, ending), events.end([ending])])


def whole(pieces: Sequence[Delta], ending: Ending, **keys: Any) -> bytes:
    return RESPONSES.whole(decoded(**keys), HEAD, [Choice(pieces=pieces, ending=ending)])


def client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)


async def asked(serve: Any, data: bytes) -> Response:
    async with client(await serve(data)) as asking:
        return await asking.responses.create(model="m", input="hi")


def events_of(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [
        event["type"] for event in events
    ]
    return events


def text(said: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": "message", "content": [(kind, said)]}


def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def shown(response: Response) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for item in response.output:
        if item.type == "message":
            parts = [(p.type, p.text if p.type == "output_text" else p.refusal) for p in item.content]
            items.append({"type": "message", "content": parts})
        elif item.type == "function_call":
            items.append(call(item.call_id, item.name, item.arguments))
        elif item.type == "reasoning":
            items.append({"type": "reasoning", "content": [part.text for part in item.content or ()]})
    return items


CASES: dict[str, tuple[list[Delta], Ending, str, list[dict[str, Any]]]] = {
    "text": (TEXT, Ending(), "", [text(SAID)]),
    "length": (TEXT[:1], Ending(reason="length"), "max_output_tokens", [text("Hel")]),
    "tool call": (CALL, Ending(reason="tool_calls"), "", [call("call_1", "weather", '{"city": "Oslo"}')]),
    "two calls after text": (
        [*TEXT, *CALL, SECOND],
        Ending(reason="tool_calls"),
        "",
        [text(SAID), call("call_1", "weather", '{"city": "Oslo"}'), call("call_2", "now", "")],
    ),
    "calls whose pieces are mixed": (
        [FIRST, SECOND, *REST, Delta(text="{}", kind="call", index=1), *TEXT],
        Ending(reason="tool_calls"),
        "",
        [call("call_1", "weather", '{"city": "Oslo"}'), call("call_2", "now", "{}"), text(SAID)],
    ),
    "calls without ids": (
        [Delta(text="{}", kind="call", index=0, name="a"), Delta(text="{}", kind="call", index=1, name="b")],
        Ending(reason="tool_calls"),
        "",
        [call("call_0af7_0", "a", "{}"), call("call_0af7_1", "b", "{}")],
    ),
    "reasoning": (
        [Delta(text="Hm", kind="reasoning"), Delta(text="m.", kind="reasoning"), *TEXT],
        Ending(),
        "",
        [{"type": "reasoning", "content": ["Hmm."]}, text(SAID)],
    ),
    "refusal by the model": (
        [Delta(text="I ca", kind="refusal"), Delta(text="nnot.", kind="refusal")],
        Ending(),
        "",
        [text("I cannot.", "refusal")],
    ),
    "text, then refusal by the model": (
        [*TEXT, Delta(text="No.", kind="refusal")],
        Ending(),
        "",
        [{"type": "message", "content": [("output_text", SAID), ("refusal", "No.")]}],
    ),
    "blocked before anything": (
        [Delta(text="This was blocked.")],
        BLOCKED,
        "content_filter",
        [text("This was blocked.")],
    ),
    "cut in the middle": (TEXT[:1], BLOCKED, "content_filter", [text("Hel")]),
    "cut in the middle of a call": (CALL[:2], BLOCKED, "content_filter", [call("call_1", "weather", '{"city": "Os')]),
    "nothing": ([], Ending(), "", []),
    "half a surrogate pair": ([Delta(text="a\ud83d")], Ending(), "", [text("a?")]),
}


@pytest.mark.parametrize("name", CASES)
async def test_sdk_accumulates_a_stream_to_the_answer(name: str, serve: Any) -> None:
    pieces, ending, why, items = CASES[name]
    url = await serve(streamed(pieces, ending), kind="text/event-stream")
    async with client(url) as asking, asking.responses.stream(model="m", input="hi") as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == ("response.incomplete" if why else "response.completed")
    assert shown(last.response) == items
    assert last.response.status == ("incomplete" if why else "completed")
    if not why:  # the SDK keeps a final response of complete ones only
        assert shown(await stream.get_final_response()) == items


@pytest.mark.parametrize("name", CASES)
async def test_sdk_parses_the_whole_answer(name: str, serve: Any) -> None:
    pieces, ending, why, items = CASES[name]
    response = await asked(serve, whole(pieces, ending))
    Response.model_validate(response.model_dump())
    assert (response.id, response.model, response.created_at) == ("resp_0af7", "small-1", 1_700_000_000)
    assert response.status == ("incomplete" if why else "completed")
    assert (response.incomplete_details.reason if response.incomplete_details else "") == why
    assert shown(response) == items


@pytest.mark.parametrize("name", CASES)
def test_stream_ends_in_what_is_answered_whole(name: str) -> None:
    pieces, ending, _, _ = CASES[name]
    data = streamed(pieces, ending)
    events = events_of(data)
    assert events[-1]["response"] == json.loads(whole(pieces, ending))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    terminal = {"response.completed", "response.incomplete", "response.failed", "error"}
    assert [event["type"] in terminal for event in events].index(True) == len(events) - 1
    assert b"[DONE]" not in data


@pytest.mark.parametrize("name", CASES)
def test_what_is_opened_is_closed_with_what_it_held(name: str) -> None:
    pieces, ending, _, _ = CASES[name]
    items: dict[int, Any] = {}
    parts: dict[tuple[int, int], str] = {}
    for event in events_of(streamed(pieces, ending)):
        at = (event.get("output_index", -1), event.get("content_index", 0))
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["item"]["status"] == "in_progress"
                items[at[0]] = None
            case "output_item.done":
                assert items[at[0]] is None
                items[at[0]] = event["item"]
            case "output_text.delta" | "refusal.delta" | "reasoning_text.delta" | "function_call_arguments.delta":
                assert items[at[0]] is None
                parts[at] = parts.get(at, "") + event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert event["text"] == parts[at]
            case "refusal.done":
                assert event["refusal"] == parts[at]
            case "function_call_arguments.done":
                assert event["arguments"] == parts.get(at, "")
    assert [items[at] for at in sorted(items)] == json.loads(whole(pieces, ending))["output"]


def test_call_that_was_cut_has_no_arguments_done() -> None:
    events = events_of(streamed(CALL[:2], BLOCKED))
    assert "response.function_call_arguments.done" not in [event["type"] for event in events]
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_structured_output_is_parsed_by_the_sdk(serve: Any) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    url = await serve(streamed([Delta(text='{"name":'), Delta(text='"Oslo"}')], Ending()), kind="text/event-stream")
    async with client(url) as asking, asking.responses.stream(model="m", input="hi", text_format=City) as stream:
        assert (await stream.get_final_response()).output_parsed == City(name="Oslo")


async def test_usage(serve: Any) -> None:
    more = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    usage = (await asked(serve, whole(TEXT, Ending(input_tokens=10, output_tokens=3, usage=json.dumps(more))))).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 3, 13)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (4, 2)


async def test_log_probabilities_reach_the_client(serve: Any) -> None:
    found = {"token": "Hel", "logprob": -0.5, "bytes": [72], "top_logprobs": []}
    pieces = [Delta(text="Hel", more=json.dumps({"logprobs": {"content": [found]}})), Delta(text="lo")]
    response = await asked(serve, whole(pieces, Ending()))
    assert response.output[0].content[0].logprobs[0].logprob == -0.5  # type: ignore[union-attr, index]
    deltas = [event for event in events_of(streamed(pieces, Ending())) if event["type"].endswith("text.delta")]
    assert [event["logprobs"] for event in deltas] == [[found], []]


async def test_answer_repeats_the_request(serve: Any) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    keys: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "f"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 7,
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_object"}},
        "store": True,
    }
    response = await asked(serve, whole(TEXT, Ending(), **keys))
    said = response.model_dump(exclude_unset=True)
    assert {key: said[key] for key in keys} == {**keys, "store": False}
    assert (response.previous_response_id, response.error) == (None, None)


async def test_silent_request_has_defaults_in_its_answer(serve: Any) -> None:
    response = await asked(serve, whole(TEXT, Ending()))
    assert (response.tools, response.tool_choice, response.parallel_tool_calls) == ([], "auto", True)
    assert response.output_text == SAID


@pytest.mark.parametrize(("mode", "flagged"), [("score", True), ("block", False)])
async def test_moderation_is_reported_on_request(mode: str, flagged: bool, serve: Any) -> None:
    verdict = Verdict(action="block", reason="r", score=0.9, hazard="weapons")
    seen = LayerEvent(layer="l", phase="request", mode="shadow", verdict=verdict, version="1", input_sha256="0")
    trace = Trace(id="0af7", stack="s", events=(RequestEvent(messages=user("hi")), seen))
    keys = {"moderation": {"model": "x", "policy": {"input": {"mode": mode}}}}
    assert decoded(**keys).moderation == mode
    for data in (
        whole(TEXT, Ending(trace=trace), **keys),
        json.dumps(events_of(streamed(TEXT, Ending(trace=trace), **keys))[-1]["response"]).encode(),
    ):
        moderation = (await asked(serve, data)).moderation
        assert moderation is not None
        assert moderation.input.type == "moderation_result"
        assert (moderation.input.flagged, moderation.input.category_scores) == (flagged, {"weapons": 0.9})
        assert moderation.output.type == "error"
    assert "moderation" not in json.loads(whole(TEXT, Ending(trace=trace)))


async def test_error_in_mid_stream_raises_in_the_sdk(serve: Any) -> None:
    events = RESPONSES.events(decoded(), HEAD)
    problem = Refused(503, "the model server did not answer", kind="server_error", code="unavailable")
    data = events.start() + events.pieces(0, TEXT) + events.error(problem)
    url = await serve(data, kind="text/event-stream")
    async with client(url) as asking, asking.responses.stream(model="m", input="hi") as stream:
        with pytest.raises(openai.APIError, match="the model server did not answer"):
            await stream.until_done()
    last = events_of(data)[-1]
    assert (last["type"], last["code"], last["message"]) == ("error", "unavailable", problem.message)
    assert last["sequence_number"] == len(events_of(data)) - 1


async def test_errors_have_openais_shape(serve: Any) -> None:
    problem = Refused(429, 'no "x"', kind="insufficient_quota", code="insufficient_quota", param="p")
    async with client(await serve(RESPONSES.error(problem), status=429)) as asking:
        with pytest.raises(openai.RateLimitError) as caught:
            await asking.responses.create(model="m", input="hi")
    error = caught.value
    assert (error.type, error.code, error.param) == ("insufficient_quota", "insufficient_quota", "p")


def test_plain_request() -> None:
    call = decoded(instructions="Be brief.", temperature=0.5, top_p=0.9, max_output_tokens=7, stream=True, store=True)
    assert call.messages == (Message(role="system", content="Be brief."), Message(role="user", content="hi"))
    assert (call.model, call.stream, call.n, call.include_usage) == ("m", True, 1, True)
    assert (call.sampling.max_tokens, call.sampling.temperature, call.sampling.top_p) == (7, 0.5, 0.9)
    assert (call.sampling.seed, call.sampling.more) == (None, "")


def test_person() -> None:
    assert decoded(safety_identifier="s", user="u").person == "s"
    assert decoded(user="u").person == "u"


def test_conversation_with_tools() -> None:
    said = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    call = decoded(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
            {**said, "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
            {"type": "function_call", "call_id": "c3", "name": "now", "arguments": "{}"},
        ]
    )
    weather, now = ToolCall(id="c1", name="weather", arguments="{}"), ToolCall(id="c2", name="now", arguments="{}")
    assert call.messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="weather?"),
        Message(role="assistant", content="Let me look.", calls=(weather, now)),
        Message(role="tool", content="rain", call_id="c1"),
        Message(role="tool", content="noon", call_id="c2"),
        Message(role="assistant", content="", calls=(ToolCall(id="c3", name="now", arguments="{}"),)),
    )


def test_own_answers_can_be_sent_back() -> None:
    pieces = [Delta(text="Hm", kind="reasoning"), *TEXT, *CALL]
    output = json.loads(whole(pieces, Ending(reason="tool_calls")))["output"]
    weather = ToolCall(id="call_1", name="weather", arguments='{"city": "Oslo"}')
    assert decoded([{"role": "user", "content": "hi"}, *output]).messages[1:] == (
        Message(role="assistant", content=SAID, calls=(weather,)),
    )


def test_parts_are_those_of_chat_completions() -> None:
    [turn] = decoded(
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "see"},
                    {
                        "type": "input_image",
                        "image_url": "https://example.org/a.png",
                        "detail": "low",
                        "text": "hidden",
                    },
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"},
                    {"type": "input_text", "text": "and say"},
                ],
            }
        ]
    ).messages
    assert (turn.content, turn.media) == ("see\nand say", ("image_url", "file"))
    assert json.loads(turn.parts) == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "text", "text": "and say"},
    ]


def test_keys_become_those_of_chat_completions() -> None:
    schema = {"type": "object", "properties": {}}
    more = decoded(
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": None}],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs"],
        top_logprobs=3,
        metadata={"a": "b"},
        stream_options={"include_obfuscation": False},
        truncation="auto",
        top_k=5,
        service_tier=None,
    ).sampling.more
    function = {"type": "function", "function": {"name": "f"}}
    assert json.loads(more) == {
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function]}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "verbosity": "low",
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 3,
        "top_k": 5,
    }


def part(**keys: Any) -> list[Any]:
    return [{"role": "user", "content": [keys]}]


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": part(type="hologram")}, "input[0].content[0].type"),
        ({"input": part(type="input_text", text=5)}, "input[0].content[0].text"),
        ({"input": part(type="input_image", file_id="f")}, "input[0].content[0].file_id"),
        ({"input": part(type="input_file", file_id="f")}, "input[0].content[0].file_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"n": 3}, "n"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": []}, "top_p"),
        ({"stream": 1}, "stream"),
        ({"model": ["m"]}, "model"),
        ({"instructions": ["x"]}, "instructions"),
        ({"metadata": "x"}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": "high"}, "reasoning"),
        ({"include": "all"}, "include"),
        ({"moderation": {"model": "x", "policy": {"input": {"mode": "ask"}}}}, "moderation.policy.input.mode"),
        ({"user": 5}, "user"),
    ],
)
def test_wrong_key_is_named(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        decoded(**keys)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def test_refusal_to_look_up_says_the_way_out() -> None:
    with pytest.raises(Refused, match="send the whole conversation as input"):
        decoded(previous_response_id="resp_1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "name", "x"]), inner),
    max_leaves=8,
)
PARTS = ["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio", "x"]
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(PARTS)},
    optional=dict.fromkeys(["text", "refusal", "image_url", "detail", "file_data", "filename", "input_audio"], JSON),
)
ITEM = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "x", None])},
    optional={
        "role": st.sampled_from(["user", "assistant", "developer", "x"]) | JSON,
        "content": st.lists(PART, max_size=3) | JSON,
        **dict.fromkeys(["call_id", "name", "arguments", "output"], JSON),
    },
)
KEYS = [*"instructions tools tool_choice text reasoning include moderation metadata stream user top_p model y".split()]


@settings(max_examples=150, deadline=None)
@given(input=st.lists(ITEM, max_size=3) | JSON, keys=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_whatever_is_sent_is_decoded_or_refused(input: Any, keys: dict[str, Any]) -> None:
    try:
        call = decoded(input, **keys)
    except Refused as problem:
        assert problem.status == 400
        assert problem.message
    else:
        json.loads(call.sampling.more or "{}")
        json.loads(RESPONSES.whole(call, HEAD, [Choice(pieces=TEXT, ending=Ending())]))
        assert all(isinstance(json.loads(message.parts or "[]"), list) for message in call.messages)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        RESPONSES.decode(body)


PIECE = st.builds(
    Delta,
    text=st.text(max_size=3),
    kind=st.sampled_from(["text", "refusal", "reasoning", "call"]),
    index=st.integers(0, 2),
    call_id=st.sampled_from(["", "c"]),
    name=st.sampled_from(["", "f"]),
)
ENDING = st.builds(Ending, reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECE, max_size=8), ending=ENDING)
def test_stream_and_whole_answer_say_the_same(pieces: list[Delta], ending: Ending) -> None:
    events = events_of(streamed(pieces, ending))
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert events[-1]["response"] == json.loads(whole(pieces, ending))
    assert [done[at] for at in sorted(done)] == events[-1]["response"]["output"]
