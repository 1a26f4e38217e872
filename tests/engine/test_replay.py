"""Replays: one thing changed, the rest from the record."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.core.errors import ConfigError, NotFound
from alignstack.core.layer import View
from alignstack.core.messages import Message, user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.engine.replay import replay, reused, with_threshold
from alignstack.engine.run import run, stream
from alignstack.engine.stack import Stack
from tests.engine.parts import CLOCK, REFUSAL, Rule, Says, allow, block, crash, flags, place, says, stack
from tests.engine.random_stacks import LETTERS, players, really, stacks


async def traced(built: Stack, text: str = "hi") -> Trace:
    return await run(built, user(text), clock=CLOCK, trace_id="t")


def scored(score: float) -> Rule:
    def rule(view: View) -> Verdict:
        return Verdict(action="block" if score >= 0.5 else "allow", score=score, threshold=0.5)

    return Rule("scored", rule)


def prompt(view: View) -> Verdict:
    return Verdict(action="modify", messages=(Message(role="system", content="be good"), *view.messages))


async def test_a_replay_with_nothing_changed_asks_nobody() -> None:
    layer, out, model = Rule("in", allow), Rule("out", allow, phase="output"), says("fine")
    built = stack(layer, out, model=model)
    trace = await traced(built)
    again = await replay(trace, built, clock=CLOCK)
    assert again.outcome.delivered == "fine"
    assert len(layer.seen) == len(out.seen) == len(model.asked) == 1
    assert reused(trace, again) == (False, True, True, True, False)
    assert again.id != trace.id


async def test_with_a_blocking_layer_off_the_rest_is_asked_for_the_first_time() -> None:
    other, model = Rule("other", allow), says("fine")
    built = stack(Rule("in", flags("hi")), other, model=model)
    trace = await traced(built)
    assert trace.outcome.status == "blocked"
    again = await replay(trace, built, off=frozenset({"in"}), clock=CLOCK)
    assert again.outcome.delivered == "fine"
    assert len(other.seen) == 1
    assert len(model.asked) == 1


async def test_a_layer_can_be_put_in_shadow() -> None:
    built = stack(Rule("in", block))
    again = await replay(await traced(built), built, shadow=frozenset({"in"}), clock=CLOCK)
    assert again.outcome.status == "delivered"
    assert again.layer_events[0].mode == "shadow"


@pytest.mark.parametrize(("threshold", "status"), [(0.29, "blocked"), (0.3, "blocked"), (0.31, "delivered")])
async def test_a_moved_threshold_is_decided_from_the_recorded_score(threshold: float, status: str) -> None:
    layer = scored(0.3)
    built = stack(place(layer, threshold=0.5))
    again = await replay(await traced(built), built, thresholds={"scored": threshold}, clock=CLOCK)
    assert again.outcome.status == status
    assert len(layer.seen) == 1


def test_what_the_policy_lets_through_stays_let_through() -> None:
    verdict = Verdict(action="allow", score=0.9, threshold=0.5)
    assert with_threshold(verdict, 0.2).action == "allow"
    assert with_threshold(Verdict(action="abstain"), 0.2).action == "abstain"


async def test_the_reference_answers_in_place_of_the_weights() -> None:
    out = Rule("out", flags("base"), phase="output")
    built = stack(out, reference=says("base", version="0"))
    trace = await traced(built)
    again = await replay(trace, built, reference=True, clock=CLOCK)
    assert again.outcome.status == "blocked"
    assert len(out.seen) == 2
    with pytest.raises(ConfigError, match="reference"):
        await replay(trace, replace(built, reference=None), reference=True, clock=CLOCK)


async def test_without_the_system_prompt_the_model_is_asked_again() -> None:
    model = Says(lambda messages: ["refuse"] if messages[0].role == "system" else ["comply"])
    built = stack(Rule("sp", prompt, phase="prompt", kind="modifier"), model=model)
    trace = await traced(built)
    assert trace.outcome.delivered == "refuse"
    again = await replay(trace, built, off=frozenset({"sp"}), clock=CLOCK)
    assert again.outcome.delivered == "comply"


async def test_a_recorded_fault_stays_unless_the_layer_is_asked_again() -> None:
    layer = Rule("in", crash)
    built = stack(place(layer, on_error="allow"))
    trace = await traced(built)
    layer.rule = block
    assert (await replay(trace, built, clock=CLOCK)).outcome.status == "delivered"
    assert (await replay(trace, built, again=frozenset({"in"}), clock=CLOCK)).outcome.status == "blocked"


async def test_a_model_that_gave_no_answer_is_asked_again_on_request() -> None:
    silent, well = says("x", fails_after=0), says("fine")
    trace = await traced(stack(Rule("in", allow), model=silent))
    built = stack(Rule("in", allow), model=well)
    assert (await replay(trace, built, clock=CLOCK)).outcome.status == "unavailable"
    again = await replay(trace, built, again=frozenset({"model"}), clock=CLOCK)
    assert (again.outcome.status, again.outcome.delivered) == ("delivered", "fine")


async def test_a_limit_is_never_charged_by_a_replay() -> None:
    limit = Rule("limit", lambda v: Verdict(action="abstain" if v.audit else "allow"), stateful=True)
    built = stack(limit)
    trace = await traced(built)
    await replay(trace, built, again=frozenset({"limit"}), clock=CLOCK)
    assert [view.audit for view in limit.seen] == [False, True]


async def test_a_cut_stream_replayed_without_the_layer_that_cut_it_is_delivered() -> None:
    built = stack(Rule("out", flags("e"), phase="output"), model=says("abcdefgh"), streaming=True, window=2)
    *_, trace = [item async for item in stream(built, user("hi"), clock=CLOCK, trace_id="t")]
    assert trace.outcome.delivered == "abc"
    assert (await replay(trace, built, clock=CLOCK)).outcome.delivered == "abc"
    again = await replay(trace, built, off=frozenset({"out"}), clock=CLOCK)
    assert (again.outcome.status, again.outcome.delivered) == ("delivered", "abcdefgh")


async def test_names_that_are_not_there_are_named() -> None:
    built = stack(Rule("in", allow))
    trace = await traced(built)
    for change in (
        {"off": frozenset({"inn"})},
        {"shadow": frozenset({"inn"})},
        {"shadow": frozenset({"model"})},
        {"thresholds": {"in": 0.5}},
    ):
        with pytest.raises(NotFound):
            await replay(trace, built, clock=CLOCK, **change)


async def test_a_refused_request_replays_to_the_refusal() -> None:
    built = stack(Rule("in", block))
    assert (await replay(await traced(built), built, clock=CLOCK)).outcome.delivered == REFUSAL


@settings(max_examples=80, deadline=None)
@given(built=stacks(), text=st.text(LETTERS, max_size=4), data=st.data())
async def test_a_replay_ends_as_really_running_it_would(built: Stack, text: str, data: st.DataObject) -> None:
    off = data.draw(st.frozensets(st.sampled_from(players(built)))) if players(built) else frozenset()
    _, trace = await really(built, text, frozenset())
    again = await replay(trace, built, off=off, clock=CLOCK)
    _, expected = await really(built, text, off)
    assert replace(again.outcome, seconds=0) == replace(expected.outcome, seconds=0)
