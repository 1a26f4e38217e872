"""Against the official SDK: its types read the answers, its client reads the streams, its parameters are decoded."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from alignstack.core.events import Event, LayerEvent, Mode
from alignstack.core.layer import Phase
from alignstack.core.messages import ToolCall
from alignstack.core.ports import Delta
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.gateway.call import Call, Choice, Ending, Head, Refused, bad_request
from alignstack.gateway.dialects.chat import CHAT

HEAD = Head(id="abc123", created=1_700_000_000.9, model="tiny")
ENDING = Ending(input_tokens=7, output_tokens=3)
HI = {"messages": [{"role": "user", "content": "hi"}]}


def decode(**keys: Any) -> Call:
    return CHAT.decode(json.dumps({**HI, **keys}).encode())


def refused(body: bytes | dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        CHAT.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    assert caught.value.kind == "invalid_request_error"
    return caught.value


def whole(call: Call, *choices: Choice) -> ChatCompletion:
    return ChatCompletion.model_validate_json(CHAT.whole(call, HEAD, choices), strict=True)


def answer(*pieces: Delta, ending: Ending = ENDING) -> Choice:
    return Choice(pieces=pieces, ending=ending)


def chunks(data: bytes) -> list[ChatCompletionChunk]:
    """What stands between `data: ` and the empty line, each a valid chunk."""
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    texts = [event.removeprefix("data: ") for event in events]
    return [ChatCompletionChunk.model_validate_json(text, strict=True) for text in texts if text != "[DONE]"]


class TestDecode:
    def test_a_plain_request_is_read(self) -> None:
        call = decode(model="m", temperature=0.5, top_p=0.9, seed=-4, max_tokens=9, n=2, stream=True)
        assert [(m.role, m.content) for m in call.messages] == [("user", "hi")]
        sampling = call.sampling
        assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.5, 0.9, -4, 9)
        assert (call.model, call.n, call.stream, call.include_usage) == ("m", 2, True, False)

    def test_what_was_left_out_stays_open(self) -> None:
        call = decode(temperature=None, n=None, stream=None, stream_options=None, moderation=None)
        sampling = call.sampling
        assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (None, None, None, None)
        assert (call.n, call.stream, call.person, call.moderation, sampling.more) == (1, False, "", "", "")

    def test_either_limit_of_tokens_counts_and_the_newer_wins(self) -> None:
        assert decode(max_completion_tokens=5).sampling.max_tokens == 5
        both = decode(max_completion_tokens=5, max_tokens=6).sampling
        assert (both.max_tokens, both.more) == (5, "")

    def test_a_whole_number_may_be_written_with_a_point(self) -> None:
        assert decode(max_tokens=5.0, n=2.0, temperature=1).sampling.max_tokens == 5

    def test_keys_that_are_not_read_go_to_the_model_server_unchanged(self) -> None:
        rest = {
            "model": "m",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "auto",
            "response_format": {"type": "json_object"},
            "logprobs": True,
            "top_logprobs": 2,
            "stop": ["a", None],
            "logit_bias": {"50256": -100},
            "reasoning_effort": "low",
            "metadata": {"é": "\n"},
            "unheard_of": [1.5, 2**70, None, {"deep": True}],
        }
        assert json.loads(decode(**rest, user="u", stream_options={"include_usage": True}).sampling.more) == rest

    def test_usage_is_wanted_when_the_stream_options_say_so(self) -> None:
        assert decode(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).include_usage

    def test_the_person_is_the_safety_identifier_or_the_older_key(self) -> None:
        assert decode(safety_identifier="new", user="old").person == "new"
        assert decode(user="old").person == "old"

    def test_every_role_is_understood(self) -> None:
        turns = [
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": "u", "name": "Ann"},
            {"role": "assistant", "content": "a"},
            {"role": "tool", "content": "t", "tool_call_id": "c1"},
            {"role": "function", "content": "f", "name": "old"},
        ]
        messages = decode(messages=turns).messages
        assert [m.role for m in messages] == ["system", "system", "user", "assistant", "tool", "tool"]
        assert [m.content for m in messages] == ["s", "d", "u", "a", "t", "f"]
        assert messages[2].more == '{"name":"Ann"}'
        assert [m.call_id for m in messages[4:]] == ["c1", "old"]
        assert [m.more for m in messages[3:]] == ["", "", ""]

    def test_tool_calls_are_read(self) -> None:
        asked = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
        (message,) = decode(messages=[{"role": "assistant", "content": None, "tool_calls": [asked]}]).messages
        assert message.calls == (ToolCall(id="c1", name="f", arguments='{"x":1}'),)
        assert (message.content, message.parts, message.more) == ("", "", "")

    def test_tool_calls_that_say_more_are_kept_as_they_came(self) -> None:
        custom = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
        signed = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}, "signature": "x"}
        (message,) = decode(messages=[{"role": "assistant", "tool_calls": [custom, signed]}]).messages
        assert [(call.name, call.arguments) for call in message.calls] == [("sh", "ls"), ("f", "")]
        assert json.loads(message.more) == {"tool_calls": [custom, signed]}

    def test_the_older_function_call_becomes_a_tool_call_that_its_answer_names(self) -> None:
        turn = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
        asked, said = decode(messages=[turn, {"role": "function", "name": "f", "content": "1"}]).messages
        assert asked.calls[0].id == said.call_id == "f"

    def test_parts_are_read_and_kept(self) -> None:
        parts = [
            {"type": "text", "text": "one"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "text", "text": "two"},
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f"}},
        ]
        (message,) = decode(messages=[{"role": "user", "content": parts}]).messages
        assert message.content == "one\ntwo"
        assert message.media == ("image_url", "input_audio", "file")
        assert json.loads(message.parts) == parts

    def test_a_single_text_part_is_a_text(self) -> None:
        (message,) = decode(messages=[{"role": "user", "content": [{"type": "text", "text": "one"}]}]).messages
        assert (message.content, message.parts, message.media) == ("one", "", ())

    def test_a_text_part_that_says_more_keeps_it(self) -> None:
        part = {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}
        (message,) = decode(messages=[{"role": "user", "content": [part]}]).messages
        assert (message.content, json.loads(message.parts)) == ("one", [part])

    @pytest.mark.parametrize("kind", ["input_text", "output_text", "surprise"])
    def test_text_cannot_hide_in_a_part_of_another_type(self, kind: str) -> None:
        (message,) = decode(messages=[{"role": "user", "content": [{"type": kind, "text": "bomb"}]}]).messages
        assert (message.content, message.media) == ("bomb", (kind,))

    def test_media_cannot_hide_in_a_text_part(self) -> None:
        part = {"type": "text", "text": "hi", "image_url": {"url": "http://127.0.0.1"}}
        (message,) = decode(messages=[{"role": "user", "content": [part]}]).messages
        assert (message.content, message.media) == ("hi", ("image_url",))

    def test_text_cannot_hide_in_a_key_given_twice(self) -> None:
        body = b'{"messages":[{"role":"user","content":[{"type":"text","text":"bomb","text":"hi","x":1}]}]}'
        (message,) = CHAT.decode(body).messages
        assert message.content == "hi"
        assert "bomb" not in message.parts

    def test_refusals_are_texts(self) -> None:
        turns = [
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
        ]
        first, second = decode(messages=turns).messages
        assert (first.content, second.content, second.media) == ("no", "never", ())

    @pytest.mark.parametrize(
        ("policy", "mode"),
        [
            (None, "score"),
            ({}, "score"),
            ({"input": {"mode": "score"}, "output": None}, "score"),
            ({"input": {"mode": "score"}, "output": {"mode": "block"}}, "block"),
        ],
    )
    def test_moderation_takes_the_stricter_mode_of_the_two_stages(self, policy: object, mode: str) -> None:
        assert decode(moderation={"model": "omni-moderation-latest", "policy": policy}).moderation == mode


class TestWrongRequests:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"messages": None}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": ["hi"]}, "messages[0]"),
            ({"messages": [{"content": "hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "root", "content": "hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
            ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "x" * 65}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].tool_call_id"),
            ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function"),
            ({"model": 1}, "model"),
            ({"temperature": "hot"}, "temperature"),
            ({"temperature": -1}, "temperature"),
            ({"temperature": True}, "temperature"),
            ({"top_p": 2}, "top_p"),
            ({"seed": 2**63}, "seed"),
            ({"seed": 1.5}, "seed"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
            ({"n": 0}, "n"),
            ({"n": 17}, "n"),
            ({"stream": "yes"}, "stream"),
            ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
            ({"user": 5}, "user"),
            ({"moderation": {}}, "moderation.model"),
            ({"moderation": {"model": "m", "policy": {"input": {"mode": "off"}}}}, "moderation.policy.input.mode"),
        ],
    )
    def test_the_wrong_key_is_named(self, change: dict[str, Any], param: str) -> None:
        problem = refused({**HI, **change})
        assert problem.param == param
        assert param in problem.message

    def test_messages_may_not_be_missing(self) -> None:
        assert refused({}).param == "messages"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"null",
            b"{",
            b"\xff",
            b"\xef\xbb\xbf{}",
            b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
            b'{"messages":[{"role":"user","content":"\\ud800"}]}',
            b'{"messages":[{"role":"user","content":"hi"}],"x":NaN}',
            b'{"messages":[{"role":"user","content":"hi"}],"x":1e999}',
            b'{"messages":[{"role":"user","content":"hi"}],"x":' + b"9" * 10_000 + b"}",
            b'{"messages":[{"role":"user","content":"hi"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"messages":' + b'[{"content":' * 50_000,
            b'{"messages":[{"role":"user","content":"hi"}]} {}',
        ],
    )
    def test_broken_bodies_are_refused(self, body: bytes) -> None:
        refused(body)

    def test_long_values_are_not_sent_back(self) -> None:
        assert len(refused({"messages": [{"role": "x" * 100_000, "content": ""}]}).message) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def either(*likely: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(likely) | JSON


PARTS = st.fixed_dictionaries({}, optional={"type": either("text", "image_url", "refusal"), "text": either("a")})
CALLS = st.fixed_dictionaries(
    {}, optional={"id": either("c"), "function": either({"name": "f", "arguments": "{}"}), "type": either("function")}
)
TURNS = st.fixed_dictionaries(
    {"role": either("user", "assistant", "tool", "system", "function"), "content": either("hi") | st.lists(PARTS)},
    optional={"tool_calls": st.lists(CALLS) | JSON, "tool_call_id": either("c"), "refusal": either("no"), "x": JSON},
)
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(TURNS, max_size=3) | JSON},
    optional={
        "n": st.integers(-2, 20) | JSON,
        "temperature": st.floats() | JSON,
        "seed": JSON,
        "max_tokens": JSON,
        "stream": either(True, False),
        "stream_options": either({"include_usage": True}),
        "moderation": either({"model": "m"}, {"model": "m", "policy": {"input": {"mode": "block"}}}),
        "tools": JSON,
        "user": JSON,
    },
)


class TestAnyRequest:
    @settings(max_examples=200, deadline=None)
    @given(BODIES)
    def test_a_body_is_read_or_refused(self, body: dict[str, Any]) -> None:
        self.check(json.dumps(body).encode())

    @settings(max_examples=200, deadline=None)
    @given(st.binary())
    def test_bytes_are_read_or_refused(self, body: bytes) -> None:
        self.check(body)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_a_damaged_body_is_read_or_refused(self, data: st.DataObject) -> None:
        body = bytearray(json.dumps({**HI, "n": 2, "tools": [{"a": "é"}]}, ensure_ascii=False).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        self.check(bytes(body))

    def check(self, body: bytes) -> None:
        try:
            call = CHAT.decode(body)
        except Refused as problem:
            assert problem.status == 400
            assert json.loads(CHAT.error(problem))["error"]["message"]
            return
        assert 1 <= call.n <= 16
        for text in (call.sampling.more, *(text for m in call.messages for text in (m.parts, m.more))):
            assert text == "" or json.loads(text) is not None
        "".join(m.content for m in call.messages).encode()

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
    def test_text_arrives_letter_for_letter_and_leaves_so(self, texts: list[str]) -> None:
        call = decode(messages=[{"role": "user", "content": text} for text in texts])
        assert [m.content for m in call.messages] == texts
        pieces = [Delta(text=text) for text in texts]
        assert whole(call, answer(*pieces)).choices[0].message.content == "".join(texts)
        sent = chunks(CHAT.events(call, HEAD).pieces(0, pieces))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in sent) == "".join(texts)


class TestWhole:
    def test_a_text(self) -> None:
        completion = whole(decode(), answer(Delta(text="Hello"), Delta(text=", you")))
        assert (completion.id, completion.created, completion.model) == ("chatcmpl-abc123", 1_700_000_000, "tiny")
        assert completion.object == "chat.completion"
        (choice,) = completion.choices
        assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
        assert choice.message.model_dump(exclude_unset=True) == {
            "role": "assistant",
            "content": "Hello, you",
            "refusal": None,
        }
        assert completion.usage is not None
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 3)
        assert completion.usage.total_tokens == 10

    def test_a_blocked_answer_is_the_refusal_and_a_content_filter(self) -> None:
        ending = Ending(reason="content_filter", blocked=True)
        (choice,) = whole(decode(), answer(Delta(text="I can't help with that."), ending=ending)).choices
        assert (choice.message.content, choice.message.refusal) == ("I can't help with that.", None)
        assert choice.finish_reason == "content_filter"

    def test_tool_calls_are_put_together_and_content_is_null(self) -> None:
        pieces = (
            Delta(text="", kind="call", index=0, call_id="c0", name="f"),
            Delta(text="", kind="call", index=1, call_id="c1", name="g"),
            Delta(text='{"x":', kind="call", index=0),
            Delta(text="{}", kind="call", index=1),
            Delta(text="1}", kind="call", index=0),
        )
        (choice,) = whole(decode(), answer(*pieces, ending=Ending(reason="tool_calls"))).choices
        assert choice.message.content is None
        assert choice.finish_reason == "tool_calls"
        calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
        assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
            ("c0", "f", '{"x":1}'),
            ("c1", "g", "{}"),
        ]

    def test_refusal_and_reasoning_stand_apart(self) -> None:
        pieces = (Delta(text="hm", kind="reasoning"), Delta(text="I will not", kind="refusal"))
        (choice,) = whole(decode(), answer(*pieces)).choices
        assert (choice.message.content, choice.message.refusal) == (None, "I will not")
        assert choice.message.model_dump()["reasoning_content"] == "hm"

    def test_logprobs_of_all_pieces_are_joined(self) -> None:
        pieces = [Delta(text=word, more=logprobs(word)) for word in ("a", "b", "c")]
        (choice,) = whole(decode(), answer(*pieces)).choices
        assert choice.logprobs is not None
        assert [token.token for token in choice.logprobs.content or ()] == ["a", "b", "c"]
        assert choice.logprobs.refusal is None

    def test_further_keys_of_a_choice_cannot_replace_what_was_checked(self) -> None:
        more = json.dumps({"message": {"content": "bad"}, "index": 9, "finish_reason": "length", "stop_reason": 5})
        (choice,) = whole(decode(), answer(Delta(text="good", more=more))).choices
        assert (choice.message.content, choice.index, choice.finish_reason) == ("good", 0, "stop")
        assert choice.model_dump()["stop_reason"] == 5

    @pytest.mark.parametrize("found", [None, 5, "x", [], {"content": 5}, {"content": None}])
    def test_strange_logprobs_do_not_break_the_answer(self, found: Any) -> None:
        (choice,) = whole(decode(), answer(Delta(text="a", more=json.dumps({"logprobs": found})))).choices
        assert (choice.message.content, choice.logprobs) == ("a", None)

    @pytest.mark.parametrize("found", [None, 5, {"reasoning_tokens": None}])
    def test_strange_details_do_not_break_the_usage(self, found: Any) -> None:
        ending = Ending(output_tokens=3, usage=json.dumps({"completion_tokens_details": found, "total_tokens": -1}))
        body = json.loads(CHAT.whole(decode(), HEAD, [answer(ending=ending)] * 2))
        assert body["usage"]["total_tokens"] == 6

    def test_several_answers_share_the_prompt_and_sum_what_they_said(self) -> None:
        details = '{"completion_tokens_details":{"reasoning_tokens":2},"prompt_tokens_details":{"cached_tokens":4}}'
        ending = Ending(input_tokens=7, output_tokens=3, usage=details)
        completion = whole(decode(n=2), answer(Delta(text="a"), ending=ending), answer(Delta(text="b"), ending=ending))
        assert [choice.index for choice in completion.choices] == [0, 1]
        assert completion.usage is not None
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 6)
        assert completion.usage.total_tokens == 13
        assert completion.usage.completion_tokens_details is not None
        assert completion.usage.completion_tokens_details.reasoning_tokens == 4
        assert completion.usage.prompt_tokens_details is not None
        assert completion.usage.prompt_tokens_details.cached_tokens == 4

    def test_half_a_surrogate_pair_does_not_break_the_answer(self) -> None:
        assert whole(decode(), answer(Delta(text="a\ud800b"))).choices[0].message.content == "a?b"


def logprobs(token: str) -> str:
    found = {"token": token, "logprob": -0.5, "bytes": [1], "top_logprobs": []}
    return json.dumps({"logprobs": {"content": [found], "refusal": None}})


class TestEvents:
    def test_chunks_are_those_of_openai(self) -> None:
        events = CHAT.events(decode(), HEAD)
        data = events.start() + events.pieces(0, [Delta(text="Hel"), Delta(text="lo")]) + events.finish(0, ENDING)
        first, text, last = chunks(data)
        assert first.choices[0].delta.model_dump(exclude_unset=True) == {
            "role": "assistant",
            "content": "",
            "refusal": None,
        }
        assert text.choices[0].delta.model_dump(exclude_unset=True) == {"content": "Hello"}
        assert last.choices[0].delta.model_dump(exclude_unset=True) == {}
        assert [chunk.choices[0].finish_reason for chunk in (first, text, last)] == [None, None, "stop"]
        assert {chunk.id for chunk in (first, text, last)} == {"chatcmpl-abc123"}
        assert events.end([ENDING]) == b"data: [DONE]\n\n"

    def test_usage_stands_in_a_chunk_of_its_own_when_wanted(self) -> None:
        events = CHAT.events(decode(stream_options={"include_usage": True}), HEAD)
        data = events.start() + events.pieces(0, [Delta(text="a")]) + events.finish(0, ENDING)
        assert all(chunk.model_dump(exclude_unset=True)["usage"] is None for chunk in chunks(data))
        (last,) = chunks(events.end([ENDING]))
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens == 10

    def test_usage_is_not_mentioned_when_not_wanted(self) -> None:
        events = CHAT.events(decode(), HEAD)
        assert b"usage" not in events.start() + events.pieces(0, [Delta(text="a")]) + events.finish(0, ENDING)

    def test_each_choice_has_its_own_chunks(self) -> None:
        events = CHAT.events(decode(n=3), HEAD)
        assert [chunk.choices[0].index for chunk in chunks(events.start())] == [0, 1, 2]
        assert chunks(events.pieces(2, [Delta(text="x")]))[0].choices[0].index == 2

    def test_line_ends_of_unicode_are_escaped(self) -> None:
        events = CHAT.events(decode(), HEAD)
        data = events.pieces(0, [Delta(text="a\u2028b\u2029c\x85d\r\n\x1ee")]).decode()
        assert data.splitlines() == [data.rstrip("\n"), ""]
        assert chunks(data.encode())[0].choices[0].delta.content == "a\u2028b\u2029c\x85d\r\n\x1ee"

    def test_pieces_with_logprobs_keep_their_own_chunk(self) -> None:
        events = CHAT.events(decode(), HEAD)
        sent = chunks(events.pieces(0, [Delta(text=word, more=logprobs(word)) for word in ("a", "b")]))
        assert [chunk.choices[0].delta.content for chunk in sent] == ["a", "b"]
        assert [(chunk.choices[0].logprobs.content or [])[0].token for chunk in sent if chunk.choices[0].logprobs] == [
            "a",
            "b",
        ]

    def test_nothing_to_say_is_no_chunk(self) -> None:
        events = CHAT.events(decode(), HEAD)
        assert events.pieces(0, []) == events.pieces(0, [Delta(text="")]) == b""


def judged(phase: Phase, verdict: Verdict, mode: Mode = "shadow") -> LayerEvent:
    return LayerEvent(layer="l", phase=phase, mode=mode, verdict=verdict, version="1", input_sha256="")


def traced(*events: Event) -> Ending:
    return Ending(trace=Trace(id="abc123", stack="f" * 64, events=events))


SCORE: dict[str, Any] = {"moderation": {"model": "omni-moderation-latest"}}


class TestModeration:
    def test_it_is_absent_unless_asked_for(self) -> None:
        assert whole(decode(), answer(Delta(text="a"))).moderation is None

    def test_scores_of_input_and_output_are_reported(self) -> None:
        ending = traced(
            judged("request", Verdict(action="allow", categories={"vcr": 0.2, "ncr": 0.1})),
            judged("output", Verdict(action="block", score=0.9, hazard="vcr")),
        )
        moderation = whole(decode(**SCORE), answer(Delta(text="a"), ending=ending)).moderation
        assert moderation is not None
        asked, said = moderation.input, moderation.output
        assert asked.type == said.type == "moderation_results"
        assert (asked.results[0].flagged, asked.results[0].category_scores) == (False, {"ncr": 0.1, "vcr": 0.2})
        assert (said.results[0].flagged, said.results[0].categories) == (True, {"vcr": True})
        assert said.results[0].category_applied_input_types == {"vcr": ["text"]}
        assert said.model == said.results[0].model == "alignstack-ffffffffffff"

    def test_a_stage_that_no_layer_looked_at_is_not_called_harmless(self) -> None:
        ending = traced(judged("request", Verdict(action="block", hazard="vcr")))
        moderation = whole(decode(**SCORE), answer(Delta(text="no"), ending=ending)).moderation
        assert moderation is not None
        assert (moderation.input.type, moderation.output.type) == ("moderation_results", "error")

    def test_each_answer_has_its_own_result(self) -> None:
        allow, block = (judged("output", Verdict(action=action, hazard="vcr")) for action in ("allow", "block"))
        moderation = whole(decode(**SCORE, n=2), answer(ending=traced(allow)), answer(ending=traced(block)))
        said = moderation.moderation
        assert said is not None
        assert said.output.type == "moderation_results"
        assert [result.flagged for result in said.output.results] == [False, True]

    def test_streams_report_it_before_the_usage(self) -> None:
        events = CHAT.events(decode(**SCORE, stream=True, stream_options={"include_usage": True}), HEAD)
        verdicts, usage = chunks(events.end([traced(judged("request", Verdict(action="allow")))]))
        assert verdicts.moderation is not None
        assert (verdicts.choices, verdicts.usage) == ([], None)
        assert usage.usage is not None


def test_errors_are_shaped_as_openai_does() -> None:
    problem = Refused(429, "slow down", kind="rate_limit_error", code="rate_limit_exceeded")
    assert json.loads(CHAT.error(problem)) == {
        "error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    }


Answering = Callable[[Call], Sequence[bytes]]


@asynccontextmanager
async def client(answering: Answering) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of a server that sends what `answering` makes of the decoded request."""

    async def handle(request: web.Request) -> web.StreamResponse:
        parts = answering(CHAT.decode(await request.read()))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as sdk:
            yield sdk
    finally:
        await runner.cleanup()


class TestOfficialClient:
    async def test_it_reads_a_stream_with_text_tools_and_usage(self) -> None:
        def answering(call: Call) -> list[bytes]:
            events = CHAT.events(call, HEAD)
            asked = [
                Delta(text="", kind="call", call_id="c0", name="f"),
                Delta(text='{"x"', kind="call"),
                Delta(text=":1}", kind="call"),
            ]
            ending = Ending(reason="tool_calls", input_tokens=7, output_tokens=3)
            return [
                events.start(),
                events.pieces(0, [Delta(text="Let me "), Delta(text="see")]),
                events.pieces(0, asked),
                events.finish(0, ending),
                events.end([ending]),
            ]

        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        async with (
            client(answering) as sdk,
            sdk.chat.completions.stream(
                model="tiny",
                messages=[{"role": "user", "content": "hi"}],
                tools=[tool],
                stream_options={"include_usage": True},
            ) as stream,
        ):
            completion = await stream.get_final_completion()
        (choice,) = completion.choices
        assert (choice.message.content, choice.finish_reason) == ("Let me see", "tool_calls")
        assert [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()] == [
            ("c0", "f", '{"x":1}')
        ]
        assert completion.usage is not None
        assert completion.usage.total_tokens == 10

    async def test_it_raises_at_an_error_in_mid_stream(self) -> None:
        def answering(call: Call) -> list[bytes]:
            events = CHAT.events(call, HEAD)
            lost = Refused(502, "the model server went away", kind="server_error", code="upstream")
            return [events.start(), events.pieces(0, [Delta(text="half")]), events.error(lost)]

        async with client(answering) as sdk:
            seen = ""
            with pytest.raises(openai.APIError, match="went away") as caught:
                async for chunk in await sdk.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
                ):
                    seen += chunk.choices[0].delta.content or ""
        assert (seen, caught.value.code) == ("half", "upstream")

    @pytest.mark.parametrize("ends", ["end", "error"])
    def test_a_stream_is_terminated_once(self, ends: str) -> None:
        events = CHAT.events(decode(), HEAD)
        last = events.end([ENDING]) if ends == "end" else events.error(bad_request("no"))
        assert last.count(b"[DONE]") == 1
        assert last.endswith(b"data: [DONE]\n\n")
