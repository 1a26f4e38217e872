import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from alignstack.core.errors import ConfigError
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models.scripted import Reply, Scripted, ScriptedConfig
from alignstack.policy.strict import problems

VERSION = "e97ddb75aa5c21c9cb0bc9cef44413c83ff255a318981d23a1d374b65ca2f678"
"""Of the script in which only `match: a` gets an answer, `b`. Runs and records name scripts by it."""
SYSTEM = Message(role="system", content="Be safe.")


def scripted(**keys: object) -> Scripted:
    return Scripted(ScriptedConfig.model_validate(keys))


async def items(model: Scripted, messages: Sequence[Message]) -> list[Delta | Finish]:
    return [item async for item in model.stream(messages, Sampling())]


async def said(model: Scripted, *messages: Message) -> str:
    return "".join(item.text for item in await items(model, messages) if isinstance(item, Delta))


async def test_the_first_reply_that_fits_is_given() -> None:
    model = scripted(replies=[{"match": "cake", "reply": "one"}, {"match": "cak", "reply": "two"}], default="none")
    assert await said(model, *user("a cake")) == "one"
    assert await said(model, *user("a cak")) == "two"
    assert await said(model, *user("Cake")) == "none"


async def test_only_the_last_user_message_is_matched() -> None:
    model = scripted(replies=[{"match": "cake", "reply": "yes"}], default="no")
    assert await said(model, *user("cake"), Message(role="assistant", content="cake"), *user("pie")) == "no"


async def test_replies_can_depend_on_a_system_message() -> None:
    model = scripted(
        replies=[
            {"match": "cake", "system": "present", "reply": "I won't."},
            {"match": "cake", "system": "absent", "reply": "Sure."},
        ]
    )
    assert await said(model, SYSTEM, *user("cake")) == "I won't."
    assert await said(model, *user("cake")) == "Sure."


async def test_without_a_fitting_reply_it_refuses() -> None:
    assert await said(scripted(), *user("anything")) == "I can't help with that."


async def test_it_streams_word_by_word_and_loses_no_white_space() -> None:
    reply = "  two\twords \n\nand more.  "
    got = await items(scripted(default=reply), user("one two"))
    assert [item.text for item in got if isinstance(item, Delta)] == ["  two", "\twords", " \n\nand", " more.", "  "]
    assert got[-1] == Finish(reason="stop", input_tokens=2, output_tokens=5)


async def test_an_empty_reply_is_a_stream_of_nothing() -> None:
    assert await items(scripted(default=""), user("x")) == [Finish(reason="stop", input_tokens=1)]


async def test_a_file_and_inline_replies_are_the_same_model(tmp_path: Path) -> None:
    lines = [{"match": "a", "reply": "line\u2028separator"}, {"match": "b", "reply": "two"}]
    (tmp_path / "r.jsonl").write_text(
        "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n", "utf-8"
    )
    from_file = Scripted(ScriptedConfig(replies="r.jsonl"), base=tmp_path)
    assert from_file.version == scripted(replies=lines).version != scripted(replies=lines[:1]).version
    assert await said(from_file, *user("b")) == "two"


def test_every_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(
        b'{"match": "a", "reply": "x"}\n{"match": "a"}\nnot json\n{"reply": "\xff"}\n[1]\n{"reply": "x", "mach": "y"}\n'
    )
    with pytest.raises(ConfigError) as caught:
        Scripted(ScriptedConfig(replies="r.jsonl"), base=tmp_path)
    lines = [str(problem).removeprefix(str(path)) for problem in caught.value.problems]
    assert lines == [
        ":2: reply: missing; this key is required",
        ":3: not valid JSON: Expecting value (column 1)",
        ":4: not UTF-8 text",
        ":5: should be a mapping (`key: value` lines)",
        ":6: mach: unknown key; did you mean 'match'?",
    ]


@pytest.mark.parametrize(
    ("content", "what"), [(None, "no such file"), (b"\n", "holds no replies"), (b"[" * 9999, "valid|deep")]
)
def test_files_without_replies_are_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        Scripted(ScriptedConfig(replies="r.jsonl"), base=tmp_path)
    assert str(tmp_path / "r.jsonl") in str(caught.value)


def test_a_wrong_key_in_an_inline_reply_is_the_only_complaint() -> None:
    with pytest.raises(ValidationError) as caught:
        ScriptedConfig.model_validate({"replies": [{"mach": "x", "reply": "y"}]})
    found = [str(problem) for problem in problems(caught.value, "s.yaml", ScriptedConfig, "model")]
    assert found == ["s.yaml: model.replies[0].mach: unknown key; did you mean 'match'?"]


def test_match_is_optional() -> None:
    assert Reply(reply="x").fits(user("whatever"))


async def test_tool_calls_are_played_until_their_results_are_there() -> None:
    calls = [{"name": "look", "arguments": {"x": 1}}, {"name": "find", "arguments": "not JSON"}]
    model = scripted(replies=[{"match": "cake", "reply": "Wait.", "calls": calls}], default="Done.")
    got = await items(model, user("cake"))
    assert got == [
        Delta(text="Wait."),
        Delta(text="", kind="call", call_id="call_0", name="look"),
        Delta(text='{"x":', kind="call"),
        Delta(text=" 1}", kind="call"),
        Delta(text="", kind="call", index=1, call_id="call_1", name="find"),
        Delta(text="not", kind="call", index=1),
        Delta(text=" JSON", kind="call", index=1),
        Finish(reason="tool_calls", input_tokens=1, output_tokens=7),
    ]
    asked = Message(role="assistant", content="", calls=(ToolCall(id="call_0", name="look", arguments="{}"),))
    results = (*user("cake"), asked, Message(role="tool", content="seen", call_id="call_0"))
    assert await said(model, *results) == "Done."
    again = await items(model, (*results, *user("cake")))
    assert [item.call_id for item in again if isinstance(item, Delta) and item.call_id] == ["call_1", "call_2"]


async def test_a_refusal_can_come_apart_from_the_answer() -> None:
    got = await items(scripted(replies=[{"reply": "No.", "refusal": True}]), user("x"))
    assert got[0] == Delta(text="No.", kind="refusal")


async def test_a_slow_model_gives_others_time_between_its_tokens() -> None:
    model, turns = scripted(default="a b c", delay_ms=20), 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    counting = asyncio.create_task(count())
    assert await said(model, *user("x")) == "a b c"
    counting.cancel()
    assert turns > 3


def test_keys_that_a_script_does_not_use_leave_its_version_alone() -> None:
    lines = [{"match": "a", "reply": "b"}]
    assert scripted(replies=lines).version == VERSION
    assert scripted(replies=lines, delay_ms=5).version == VERSION
    assert scripted(replies=[{"match": "a", "reply": "b", "refusal": True}]).version != VERSION
