"""The production run: what leaves, when, and what is written down."""

import asyncio

import pytest

from alignstack.core.errors import ConfigError, NotFound
from alignstack.core.events import LayerError
from alignstack.core.layer import Scope
from alignstack.core.messages import Message, user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.engine.run import run, stream
from alignstack.engine.stack import Stack
from tests.engine.parts import CLOCK, REFUSAL, Rule, Says, allow, block, crash, echo, flags, place, says, stack


async def ask(built: Stack, text: str = "hi", **more: object) -> Trace:
    return await run(built, user(text), clock=CLOCK, trace_id="t", **more)


async def streamed(built: Stack, text: str = "hi", **more: object) -> tuple[list[str], Trace]:
    *pieces, trace = [item async for item in stream(built, user(text), clock=CLOCK, trace_id="t", **more)]
    return pieces, trace


async def test_an_answer_that_all_layers_allow_is_delivered() -> None:
    trace = await ask(stack(Rule("in", allow), Rule("out", allow, phase="output")))
    assert (trace.outcome.status, trace.outcome.delivered) == ("delivered", "fine")
    assert [event.event for event in trace.events] == ["request", "layer", "model", "layer", "outcome"]
    assert not trace.censored


async def test_a_blocked_request_never_reaches_the_model() -> None:
    model = says("fine")
    trace = await ask(stack(Rule("in", block), model=model))
    assert (trace.outcome.status, trace.outcome.delivered) == ("blocked", REFUSAL)
    assert model.asked == []
    assert trace.censored


async def test_a_shadow_layer_decides_and_changes_nothing() -> None:
    trace = await ask(stack(place(Rule("in", block), mode="shadow")))
    assert trace.outcome.status == "delivered"
    assert trace.layer_events[0].verdict.action == "block"


async def test_vetoes_of_one_phase_run_at_the_same_time() -> None:
    layers = [Rule(f"l{i}", allow, delay=0.2) for i in range(5)]
    started = CLOCK.tick()
    await ask(stack(*layers))
    assert CLOCK.tick() - started < 0.8


async def test_a_block_cancels_slower_enforcing_layers_but_not_shadow_ones() -> None:
    slow, shadow = Rule("slow", allow, delay=5), Rule("shadow", allow, delay=0.1)
    trace = await ask(stack(Rule("quick", block), slow, place(shadow, mode="shadow")))
    assert {event.layer for event in trace.layer_events} == {"quick", "shadow"}
    assert slow.decided == 0


async def test_nobody_waits_for_a_shadow_layer_but_the_trace() -> None:
    shadow = Rule("shadow", allow, delay=0.5)
    trace = await ask(stack(place(shadow, mode="shadow")))
    assert trace.outcome.seconds < 0.4
    assert trace.layer_events[0].layer == "shadow"


async def test_a_modifier_is_waited_for_and_later_layers_see_its_work() -> None:
    def shout(view: object) -> Verdict:
        return Verdict(action="modify", messages=user("LOUD"))

    after = Rule("after", allow)
    model = Says(echo)
    trace = await ask(stack(Rule("mod", shout, kind="modifier", delay=0.05), after, model=model), "quiet")
    assert after.seen[0].text == "LOUD"
    assert trace.outcome.delivered == "LOUD"


async def test_an_output_modifier_rewrites_what_is_delivered() -> None:
    redact = Rule("redact", lambda v: Verdict(action="modify", text="[gone]"), phase="output", kind="modifier")
    assert (await ask(stack(redact))).outcome.delivered == "[gone]"


@pytest.mark.parametrize(("on_error", "status"), [("block", "blocked"), ("allow", "delivered")])
async def test_a_crash_is_recorded_and_follows_on_error(on_error: str, status: str) -> None:
    trace = await ask(stack(place(Rule("in", crash), on_error=on_error)))
    (event,) = trace.layer_events
    assert isinstance(event, LayerError)
    assert (event.fault, event.message) == ("error", "RuntimeError: broken layer")
    assert trace.outcome.status == status


@pytest.mark.parametrize(("on_error", "status"), [("block", "blocked"), ("allow", "delivered")])
async def test_a_late_layer_is_a_timeout_and_follows_on_error(on_error: str, status: str) -> None:
    trace = await ask(stack(place(Rule("in", allow, delay=5), timeout_s=0.02, on_error=on_error)))
    assert trace.layer_events[0].fault == "timeout"
    assert trace.outcome.status == status


async def test_a_timeout_inside_a_layer_is_an_error_of_its_own() -> None:
    def late(view: object) -> Verdict:
        raise TimeoutError("its own server")

    trace = await ask(stack(place(Rule("in", late), timeout_s=5)))
    assert trace.layer_events[0].fault == "error"


async def test_what_is_not_a_verdict_is_an_error() -> None:
    trace = await ask(stack(Rule("in", lambda view: True)))
    assert trace.layer_events[0].message == "returned bool, not a Verdict"
    assert trace.outcome.status == "blocked"


@pytest.mark.parametrize("fails_after", [0, 2])
async def test_a_model_that_drops_the_stream_is_unavailable(fails_after: int) -> None:
    out = Rule("out", allow, phase="output")
    trace = await ask(stack(out, model=says("fine", fails_after=fails_after)))
    assert (trace.outcome.status, trace.outcome.delivered) == ("unavailable", "")
    assert trace.generation.message == "dropped the stream"
    assert out.seen == []


async def test_a_model_with_a_bug_is_unavailable() -> None:
    trace = await ask(stack(model=Says(lambda messages: 1 / 0)))
    assert trace.outcome.status == "unavailable"
    assert trace.generation.message == "ZeroDivisionError: division by zero"


async def test_switched_off_layers_are_not_asked() -> None:
    layer = Rule("in", block)
    trace = await ask(stack(layer), off=frozenset({"in"}))
    assert trace.outcome.status == "delivered"
    assert layer.seen == []
    assert not trace.censored


async def test_without_the_weights_the_reference_answers() -> None:
    built = stack(model=says("aligned"), reference=says("base", version="0"))
    assert (await ask(built, off=frozenset({"model"}))).outcome.delivered == "base"


async def test_weights_without_a_reference_cannot_be_switched_off() -> None:
    with pytest.raises(ConfigError, match="reference"):
        await ask(stack(), off=frozenset({"model"}))


async def test_switching_off_what_is_not_there_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'keyword'"):
        await ask(stack(Rule("keyword", allow)), off=frozenset({"keywrod"}))


async def test_racing_starts_the_model_but_releases_nothing_before_layers_decide() -> None:
    slow = Rule("slow", allow, delay=0.15)
    model = says("fine")
    built = stack(slow, model=model, race=True, streaming=True)
    released = []
    async for item in stream(built, user("hi"), clock=CLOCK, trace_id="t"):
        released.append(item)
        assert slow.decided == 1
    assert model.spoken == 4
    assert "".join(released[:-1]) == "fine"


async def test_racing_overlaps_the_model_with_the_layers() -> None:
    built = stack(Rule("slow", allow, delay=0.4), model=says("fine", delay=0.1), race=True)
    trace = await ask(built)
    assert trace.outcome.status == "delivered"
    assert trace.outcome.seconds < 0.7


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_block_in_the_race_stops_generation(streaming: bool) -> None:
    model = says("fine" * 100, delay=0.02)
    slow = Rule("slow", block, delay=0.1)
    pieces, trace = await streamed(stack(slow, model=model, race=True, streaming=streaming))
    assert pieces == [REFUSAL]
    assert trace.outcome.status == "blocked"
    assert trace.generation.finish == "cancelled"
    assert model.spoken < 50
    assert model.closed == 1


async def test_a_stream_leaves_in_windows_after_the_output_layer_has_looked() -> None:
    out = Rule("out", allow, phase="output")
    pieces, trace = await streamed(stack(out, model=says("abcdefg"), streaming=True, window=3))
    assert pieces == ["a", "bcd", "efg"]
    assert [(view.draft, view.final) for view in out.seen] == [("a", False), ("abcd", False), ("abcdefg", True)]
    assert [view.recent(1) for view in out.seen] == ["a", "abcd", "abcdefg"]
    assert [event.at_token for event in trace.layer_events] == [1, 4, 7]


async def test_no_byte_leaves_before_every_enforcing_output_layer_has_seen_it() -> None:
    layers = [Rule(f"out{i}", allow, phase="output", delay=delay) for i, delay in enumerate([0.0, 0.03, 0.01])]
    built = stack(*layers, model=says("abcdefghij"), streaming=True, window=2)
    received = ""
    async for item in stream(built, user("hi"), clock=CLOCK, trace_id="t"):
        received += item if isinstance(item, str) else ""
        for layer in layers:
            assert received in [view.draft for view in layer.seen[: layer.decided]]
    assert received == "abcdefghij"


async def test_a_cut_keeps_back_everything_since_the_last_look() -> None:
    out = Rule("out", flags("e"), phase="output")
    model = says("abcdefghij" * 9, delay=0.005)
    pieces, trace = await streamed(stack(out, model=model, streaming=True, window=2))
    assert "".join(pieces) == "abc"
    assert (trace.outcome.status, trace.outcome.delivered, trace.outcome.released_tokens) == ("cut", "abc", 3)
    assert trace.generation.finish == "cancelled"
    assert trace.censored


async def test_a_stream_flagged_at_the_first_look_is_blocked_with_the_refusal() -> None:
    out = Rule("out", flags("a"), phase="output")
    pieces, trace = await streamed(stack(out, model=says("abcdef"), streaming=True, window=2))
    assert pieces == [REFUSAL]
    assert trace.outcome.status == "blocked"


async def test_a_shadow_output_layer_holds_nothing() -> None:
    shadow = place(Rule("out", block, phase="output", delay=0.5), mode="shadow")
    pieces, trace = await streamed(stack(shadow, model=says("abcd"), streaming=True, window=2))
    assert pieces == ["a", "b", "c", "d"]
    assert trace.outcome.seconds < 0.4
    assert [event.at_token for event in trace.layer_events] == [1, 3, 4]


async def test_a_stack_that_does_not_stream_sends_one_piece() -> None:
    pieces, trace = await streamed(stack(Rule("out", allow, phase="output")))
    assert pieces == ["fine"]
    assert trace.outcome.status == "delivered"


async def test_a_stream_with_an_output_modifier_waits_for_it() -> None:
    redact = Rule("redact", lambda v: Verdict(action="modify", text="[gone]"), phase="output", kind="modifier")
    pieces, _ = await streamed(stack(redact, streaming=True))
    assert pieces == ["[gone]"]


async def test_a_stream_dropped_midway_delivers_what_had_been_cleared() -> None:
    out = Rule("out", allow, phase="output")
    model = says("abcdef", fails_after=5)
    pieces, trace = await streamed(stack(out, model=model, streaming=True, window=2))
    assert "".join(pieces) == "abc"
    assert (trace.outcome.status, trace.outcome.delivered) == ("unavailable", "abc")


async def test_a_client_that_goes_away_stops_the_model() -> None:
    model = says("fine" * 100, delay=0.005)
    going = stream(stack(model=model, streaming=True), user("hi"), clock=CLOCK, trace_id="t")
    assert await anext(going) == "f"
    await going.aclose()
    assert model.closed == 1
    assert model.spoken < 10


async def test_tokens_in_one_piece_leave_together() -> None:
    out = Rule("out", flags("Z"), phase="output")
    model = Says(lambda messages: ["ab", "cd", "XYZ", "!"], tokens=len)
    pieces, trace = await streamed(stack(out, model=model, streaming=True, window=3))
    assert "".join(pieces) == "ab"
    assert trace.outcome.released_tokens == 2


async def test_a_layer_judges_only_its_first_characters() -> None:
    layer = Rule("in", flags("secret"), scope=Scope(max_chars=6))
    built = stack(layer)
    assert (await ask(built, "a long secret")).outcome.status == "delivered"
    assert layer.seen[0].text == "a long"
    turns = (Message(role="user", content="abc"), Message(role="user", content="defgh"))
    await run(built, turns, clock=CLOCK, trace_id="t")
    assert layer.seen[1].text == "abc\nde"


async def test_many_requests_at_once_do_not_mix() -> None:
    built = stack(Rule("in", flags("bad"), delay=0.01), Rule("out", flags("worse"), phase="output"), model=Says(echo))
    texts = [f"{word} {i}" for i in range(30) for word in ("good", "bad", "worse")]
    traces = await asyncio.gather(*(ask(built, text) for text in texts))
    for text, trace in zip(texts, traces, strict=True):
        assert trace.outcome.delivered == (text if text.startswith("good") else REFUSAL)
