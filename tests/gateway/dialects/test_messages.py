import json
from collections.abc import Sequence
from typing import Any

import anthropic
import pytest
from anthropic.types import Message as Answer
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.core.messages import Message, ToolCall
from alignstack.core.ports import Delta
from alignstack.gateway.call import Call, Choice, Ending, Head, Refused, bad_request
from alignstack.gateway.dialects.messages import MESSAGES

HEAD = Head(id="0af7", created=1_700_000_000.0, model="small-1")
CALL = [
    Delta(text="", kind="call", index=0, call_id="call_1", name="weather"),
    Delta(text='{"city": "Os', kind="call", index=0),
    Delta(text='lo"}', kind="call", index=0),
]
TEXT = [Delta(text="Hel"), Delta(text="lo \u2028 “you”\n")]


def decoded(**keys: Any) -> Call:
    return MESSAGES.decode(json.dumps({"model": "m", "max_tokens": 9, **keys}).encode())


def turns(*contents: Any, role: str = "user") -> list[Message]:
    return list(decoded(messages=[{"role": role, "content": content} for content in contents]).messages)


def streamed(pieces: Sequence[Delta], ending: Ending) -> bytes:
    events = MESSAGES.events(decoded(messages=[{"role": "user", "content": "hi"}]), HEAD)
    sent = [events.start(), *(events.pieces(0, [piece]) for piece in pieces)]
    return b"".join([*sent, events.finish(0, ending), events.end([ending])])


def whole(pieces: Sequence[Delta], ending: Ending) -> bytes:
    call = decoded(messages=[{"role": "user", "content": "hi"}])
    return MESSAGES.whole(call, HEAD, [Choice(pieces=pieces, ending=ending)])


def client(url: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


ASK: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}

CASES: dict[str, tuple[list[Delta], Ending, str, list[dict[str, Any]]]] = {
    "text": (TEXT, Ending(), "end_turn", [{"type": "text", "text": "Hello \u2028 “you”\n"}]),
    "length": (TEXT[:1], Ending(reason="length"), "max_tokens", [{"type": "text", "text": "Hel"}]),
    "tool call": (
        CALL,
        Ending(reason="tool_calls"),
        "tool_use",
        [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}}],
    ),
    "two calls after text, said to be a plain stop": (
        [*TEXT, *CALL, Delta(text="", kind="call", index=1, call_id="call_2", name="now")],
        Ending(),
        "tool_use",
        [
            {"type": "text", "text": "Hello \u2028 “you”\n"},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
            {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
        ],
    ),
    "calls whose pieces are mixed": (
        [
            CALL[0],
            Delta(text="", kind="call", index=1, call_id="call_2", name="now"),
            *CALL[1:],
            Delta(text='{"a":1}', kind="call", index=1),
        ],
        Ending(reason="tool_calls"),
        "tool_use",
        [
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
            {"type": "tool_use", "id": "call_2", "name": "now", "input": {"a": 1}},
        ],
    ),
    "reasoning": (
        [Delta(text="Hm", kind="reasoning"), Delta(text="m.", kind="reasoning"), *TEXT],
        Ending(),
        "end_turn",
        [
            {"type": "thinking", "thinking": "Hmm.", "signature": ""},
            {"type": "text", "text": "Hello \u2028 “you”\n"},
        ],
    ),
    "refusal by the model": (
        [Delta(text="I ca", kind="refusal"), Delta(text="nnot.", kind="refusal")],
        Ending(),
        "refusal",
        [{"type": "text", "text": "I cannot."}],
    ),
    "blocked before anything": (
        [Delta(text="This was blocked.")],
        Ending(reason="content_filter", blocked=True),
        "refusal",
        [{"type": "text", "text": "This was blocked."}],
    ),
    "cut in the middle": (
        TEXT[:1],
        Ending(reason="content_filter", blocked=True),
        "refusal",
        [{"type": "text", "text": "Hel"}],
    ),
    "nothing": ([], Ending(), "end_turn", []),
    "half a surrogate pair": ([Delta(text="a\ud83d")], Ending(), "end_turn", [{"type": "text", "text": "a?"}]),
}


def content(answer: Answer) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_none=True) for block in answer.content]


@pytest.mark.parametrize("name", CASES)
async def test_sdk_accumulates_a_stream_to_the_answer(name: str, serve: Any) -> None:
    pieces, ending, reason, blocks = CASES[name]
    url = await serve(streamed(pieces, ending), kind="text/event-stream")
    async with client(url) as asking, asking.messages.stream(**ASK) as stream:
        seen = [event.type async for event in stream]
        answer = await stream.get_final_message()
    assert answer.stop_reason == reason
    assert (answer.id, answer.model, answer.role) == ("msg_0af7", "small-1", "assistant")
    assert content(answer) == blocks
    assert seen.count("message_stop") == seen.count("message_start") == 1
    assert seen.count("content_block_start") == seen.count("content_block_stop") == len(blocks)


@pytest.mark.parametrize("name", CASES)
async def test_sdk_parses_the_whole_answer(name: str, serve: Any) -> None:
    pieces, ending, reason, blocks = CASES[name]
    url = await serve(whole(pieces, ending))
    async with client(url) as asking:
        answer = await asking.messages.create(**ASK)
    Answer.model_validate(answer.model_dump())
    assert answer.stop_reason == reason
    assert answer.stop_sequence is None
    assert content(answer) == blocks


async def test_call_that_is_cut_holds_what_was_sent(serve: Any) -> None:
    cut = Ending(reason="content_filter", blocked=True)
    url = await serve(streamed(CALL[:2], cut), kind="text/event-stream")
    async with client(url) as asking, asking.messages.stream(**ASK) as stream:
        answer = await stream.get_final_message()
    assert (answer.stop_reason, answer.content[0].type) == ("refusal", "tool_use")
    [block] = json.loads(whole(CALL[:2], cut))["content"]
    assert block["input"] == {"arguments": '{"city": "Os'}


def test_blocks_of_a_stream_follow_each_other() -> None:
    pieces = [Delta(text="Hm", kind="reasoning"), Delta(text="a"), *CALL, Delta(text="b")]
    sent = streamed(pieces, Ending()).decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in sent if line.startswith("data: ")]
    named = [line.removeprefix("event: ") for line in sent if line.startswith("event: ")]
    assert named == [event["type"] for event in events]
    opened: list[int] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert not opened
            opened.append(event["index"])
        elif event["type"] == "content_block_delta":
            assert opened == [event["index"]]
        elif event["type"] == "content_block_stop":
            assert opened.pop() == event["index"]
    assert not opened
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2, 3]


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "1e999", '{"a": ' * 3000, '{"a": "\ud800"}'])
async def test_arguments_that_are_no_object_are_kept_in_one(arguments: str, serve: Any) -> None:
    url = await serve(whole([Delta(text=arguments, kind="call", call_id="c", name="f")], Ending()))
    async with client(url) as asking:
        block = (await asking.messages.create(**ASK)).content[0]
    assert block.type == "tool_use"
    shown = [1] if arguments == "[1]" else arguments.replace("\ud800", "?")
    assert block.input == ({"arguments": shown} if arguments else {})


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_counts_cached_input_apart(stream: bool, serve: Any) -> None:
    more = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    ending = Ending(input_tokens=10, output_tokens=3, usage=json.dumps(more))
    url = await serve(
        (streamed if stream else whole)(TEXT, ending), kind="text/event-stream" if stream else "application/json"
    )
    async with client(url) as asking:
        if stream:
            async with asking.messages.stream(**ASK) as events:
                usage = (await events.get_final_message()).usage
        else:
            usage = (await asking.messages.create(**ASK)).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 3)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 2


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", "{", '{"prompt_tokens_details": 1}', '{"prompt_tokens_details": {"cached_tokens": -1}}']
)
def test_usage_survives_what_servers_say(said: str) -> None:
    usage = json.loads(whole(TEXT, Ending(input_tokens=10, output_tokens=3, usage=said)))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (10, 3)


async def test_error_in_mid_stream_raises_in_the_sdk(serve: Any) -> None:
    events = MESSAGES.events(decoded(messages=[{"role": "user", "content": "hi"}]), HEAD)
    problem = Refused(503, "the model server did not answer", kind="server_error")
    data = events.start() + events.pieces(0, TEXT) + events.error(problem)
    url = await serve(data, kind="text/event-stream")
    async with client(url) as asking, asking.messages.stream(**ASK) as stream:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await stream.until_done()
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "the model server did not answer"},
    }
    assert b"message_stop" not in data


@pytest.mark.parametrize(
    ("status", "kind", "shown", "error"),
    [
        (400, "invalid_request_error", "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", "not_found_error", anthropic.NotFoundError),
        (413, "invalid_request_error", "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", "rate_limit_error", anthropic.RateLimitError),
        (429, "insufficient_quota", "rate_limit_error", anthropic.RateLimitError),
        (500, "server_error", "api_error", anthropic.InternalServerError),
        (503, "server_error", "overloaded_error", anthropic.InternalServerError),
    ],
)
async def test_errors_have_anthropics_names(
    status: int, kind: str, shown: str, error: type[Exception], serve: Any
) -> None:
    url = await serve(MESSAGES.error(Refused(status, 'no "x"', kind=kind)), status=status)
    async with client(url) as asking:
        with pytest.raises(error) as caught:
            await asking.messages.create(**ASK)
    assert caught.value.body == {"type": "error", "error": {"type": shown, "message": 'no "x"'}}  # type: ignore[attr-defined]


def test_plain_request() -> None:
    call = decoded(
        messages=[{"role": "user", "content": "hi"}], system="Be brief.", temperature=0.5, top_p=0.9, stream=True
    )
    assert call.messages == (Message(role="system", content="Be brief."), Message(role="user", content="hi"))
    assert (call.model, call.stream, call.n, call.include_usage) == ("m", True, 1, True)
    assert (call.sampling.max_tokens, call.sampling.temperature, call.sampling.top_p) == (9, 0.5, 0.9)
    assert (call.sampling.seed, call.sampling.more) == (None, "")


@pytest.mark.parametrize("empty", ["", [], None])
def test_empty_system_is_none(empty: Any) -> None:
    assert decoded(messages=HI, system=empty).messages == (Message(role="user", content="hi"),)


def test_person_is_the_user_id() -> None:
    assert decoded(messages=[{"role": "user", "content": "hi"}], metadata={"user_id": "u1"}).person == "u1"


def test_one_text_block_is_a_plain_turn() -> None:
    assert turns([{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]) == [
        Message(role="user", content="hi")
    ]


def test_images_become_image_urls() -> None:
    [turn] = turns(
        [
            {"type": "text", "text": "see"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        ]
    )
    assert (turn.content, turn.media) == ("see", ("image_url", "image_url"))
    assert json.loads(turn.parts) == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]


def test_text_of_documents_and_search_results_is_read() -> None:
    [turn] = turns(
        [
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
            {"type": "search_result", "title": "S", "source": "s.org", "content": [{"type": "text", "text": "found"}]},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
        ]
    )
    assert turn.content == "T\nplain\ninner\nS\ns.org\nfound"
    assert turn.media == ("file",)
    assert json.loads(turn.parts)[-1]["file"]["file_data"] == "data:application/pdf;base64,QUJD"


def test_unknown_blocks_count_as_media_and_their_text_is_read() -> None:
    [turn] = turns([{"type": "hologram", "text": "hidden", "data": 1}])
    assert (turn.content, turn.media) == ("hidden", ("hologram",))
    assert json.loads(turn.parts) == [{"type": "hologram", "text": "hidden", "data": 1}]


def test_tool_use_and_its_result() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
    thought = {"type": "thinking", "thinking": "secret", "signature": "x"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
    call = decoded(
        messages=[
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Let me look."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        ]
    )
    assert call.messages[1:] == (
        Message(
            role="assistant",
            content="Let me look.",
            calls=(ToolCall(id="t1", name="weather", arguments='{"city":"Oslo"}'),),
        ),
        Message(role="tool", content="rain", call_id="t1"),
        Message(role="user", content="and?"),
    )


def test_turn_of_results_only_adds_no_user_turn() -> None:
    [turn] = turns([{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}])
    assert turn == Message(role="tool", content="rain", call_id="t1")


def test_tools_choice_and_stops_become_those_of_chat_completions() -> None:
    schema = {"type": "object", "properties": {}}
    call = decoded(
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"name": "f", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        top_k=5,
        thinking={"type": "enabled", "budget_tokens": 2000},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}},
    )
    assert json.loads(call.sampling.more) == {
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "stop": ["END"],
        "top_k": 5,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    }


@pytest.mark.parametrize(("theirs", "chats"), [("auto", "auto"), ("any", "required"), ("none", "none")])
def test_tool_choice_words(theirs: str, chats: str) -> None:
    call = decoded(messages=[{"role": "user", "content": "hi"}], tool_choice={"type": theirs})
    assert json.loads(call.sampling.more) == {"tool_choice": chats}


HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "x"}]}
                ]
            },
            "messages[0].content[0].input",
        ),
        ({"messages": HI, "system": [{"type": "image"}]}, "system"),
        ({"messages": HI, "max_tokens": 0}, "max_tokens"),
        ({"messages": HI, "max_tokens": True}, "max_tokens"),
        ({"messages": HI, "max_tokens": None}, "max_tokens"),
        ({"messages": HI, "max_tokens": 10**18}, "max_tokens"),
        ({"messages": HI, "temperature": "hot"}, "temperature"),
        ({"messages": HI, "top_p": 2}, "top_p"),
        ({"messages": HI, "stream": "yes"}, "stream"),
        ({"messages": HI, "model": 5}, "model"),
        ({"messages": HI, "metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"messages": HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"messages": HI, "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"messages": HI, "stop_sequences": "END"}, "stop_sequences"),
        ({"messages": HI, "n": 3}, "n"),
        ({"messages": HI, "max_completion_tokens": 10**6}, "max_completion_tokens"),
    ],
)
def test_wrong_key_is_named(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        decoded(**keys)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"\xff"',
        b'{"a":"\\ud800"}',
        b'{"a":1e999}',
        b"[" * 10**5,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"\xef\xbb\xbf{}",
    ],
)
def test_broken_body_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        MESSAGES.decode(body)
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "source", "content", "data", "id", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
KINDS = ["text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "x"]
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional=dict.fromkeys(
        ("text", "source", "content", "id", "name", "input", "tool_use_id", "title", "context"), JSON
    ),
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(BLOCK, max_size=3) | JSON}
)
KEYS = [
    "system",
    "tools",
    "tool_choice",
    "metadata",
    "stop_sequences",
    "output_config",
    "stream",
    "temperature",
    "top_p",
    "model",
    "other",
]


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(TURN, max_size=3) | JSON, keys=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_whatever_is_sent_is_decoded_or_refused(messages: Any, keys: dict[str, Any]) -> None:
    try:
        call = decoded(messages=messages, **keys)
    except Refused as problem:
        assert problem.status == 400
        assert problem.message
    else:
        assert call.messages
        json.loads(call.sampling.more or "{}")
        assert all(isinstance(json.loads(message.parts or "[]"), list) for message in call.messages)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        MESSAGES.decode(body)


PIECE = st.builds(
    Delta,
    text=st.text(max_size=3) | st.sampled_from(['{"a":', "1}"]),
    kind=st.sampled_from(["text", "refusal", "reasoning", "call"]),
    index=st.integers(0, 2),
    call_id=st.sampled_from(["", "c"]),
    name=st.sampled_from(["", "f"]),
)
ENDING = st.builds(Ending, reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECE, max_size=8), ending=ENDING)
def test_stream_and_whole_answer_say_the_same(pieces: list[Delta], ending: Ending) -> None:
    blocks: list[dict[str, Any]] = []
    reason = ""
    for line in streamed(pieces, ending).decode().split("\n"):
        event: dict[str, Any] = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {"type": ""}
        match event["type"]:
            case "content_block_start":
                blocks.append({**event["content_block"]})
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                key = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "input"}[delta["type"]]
                block[key] = (block[key] or "") + delta["partial_json" if key == "input" else key]
            case "message_delta":
                reason = event["delta"]["stop_reason"]
    answer = json.loads(whole(pieces, ending))
    assert reason == answer["stop_reason"]
    assert [parsed(block) for block in blocks] == answer["content"]


def parsed(block: dict[str, Any]) -> dict[str, Any]:
    """A streamed call with its arguments read as those of a whole answer are."""
    if block["type"] != "tool_use" or not block["input"]:
        return block
    try:
        value = json.loads(block["input"])
    except ValueError:
        value = block["input"]
    return {**block, "input": value if isinstance(value, dict) else {"arguments": value}}


def test_refused_keeps_its_words() -> None:
    assert json.loads(MESSAGES.error(bad_request("no", param="x")))["error"]["message"] == "no"
