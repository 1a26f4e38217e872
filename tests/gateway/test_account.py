"""What a request may use, used, and how it ended."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.ports import Sampling
from alignstack.core.trace import Trace
from alignstack.core.usage import Settled, Status
from alignstack.core.verdict import Verdict
from alignstack.gateway.account import OPENING, at_most, declined, price, settled, status, usage_details
from alignstack.redteam.judges.text import OPENINGS, opens_with, plain

PLAIN = Sampling(seed=None, temperature=None, top_p=None, max_tokens=None)
SAID = ModelEvent(model="m", version="1", input_sha256="", messages=(), text="hi", finish="stop")
BLOCK = LayerEvent(
    layer="in1", phase="request", mode="enforce", verdict=Verdict(action="block", hazard="fraud", cost=0.5), 
    version="1", input_sha256="",
)  # fmt: skip


def trace(outcome: OutcomeEvent | None, *events: Event) -> Trace:
    ended = (outcome,) if outcome else ()
    return Trace(
        id="t",
        stack="s",
        stack_source="x",
        started=0.0,
        censored=False,
        events=(RequestEvent(messages=()), *events, *ended),
    )


def ended(status: str, delivered: str = "") -> OutcomeEvent:
    return OutcomeEvent(status=status, delivered=delivered)  # type: ignore[arg-type]


def settled_at_9(traces: list[Trace], model: object = None) -> Settled:
    return settled(traces, asked=40, model=model, now=9.0, seconds=2.0)


@pytest.mark.parametrize("text", ["", "a", "hello world " * 100, "é" * 1000, "漢" * 1000, "😀" * 1000, "\ud800" * 10])
def test_the_input_is_estimated_rather_too_high(text: str) -> None:
    asked, _ = at_most(user(text), PLAIN, 1)
    assert asked >= max(len(text) / 4, len(text.encode(errors="replace")) // 3) > -1


def test_tools_count_and_so_does_every_answer() -> None:
    one, out = at_most(user("hi"), replace(PLAIN, max_tokens=7), 1)
    more, _ = at_most(user("hi"), replace(PLAIN, more="x" * 3000), 1)
    assert out == 7 and more >= one + 1000
    assert at_most(user("hi"), replace(PLAIN, max_tokens=7), 3) == (3 * one, 21)


def test_an_answer_without_a_bound_is_reserved_something() -> None:
    assert at_most(user("hi"), PLAIN, 1)[1] > 0


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (trace(ended("delivered", "Here you are."), SAID), "delivered"),
        (trace(ended("delivered", "I can't help with that."), SAID), "refused"),
        (trace(ended("delivered", "No"), replace(SAID, finish="content_filter")), "refused"),
        (trace(ended("blocked", "I can't help with that."), BLOCK), "blocked"),
        (trace(ended("cut", "I can't"), SAID), "cut"),
        (trace(ended("unavailable")), "unavailable"),
        (trace(None), "abandoned"),
    ],
)
def test_blocked_by_a_layer_and_refused_by_the_model_are_two_things(one: Trace, expected: Status) -> None:
    assert status(one) == expected


def test_one_entry_for_all_answers_names_the_worst_and_adds_up_the_rest() -> None:
    said = replace(SAID, input_tokens=3, output_tokens=5, cost=0.25)
    entry = settled_at_9([trace(ended("delivered", "hi"), said), trace(ended("blocked"), said, BLOCK)])
    assert (entry.id, entry.at, entry.seconds) == ("t", 9.0, 2.0)
    assert (entry.status, entry.layer, entry.hazard) == ("blocked", "in1", "fraud")
    assert (entry.input_tokens, entry.output_tokens, entry.usd) == (6, 10, 1.0)


def test_a_shadow_has_blocked_nothing_and_a_crash_has() -> None:
    shadow = replace(BLOCK, mode="shadow")
    crash = LayerError(
        layer="out1",
        phase="output",
        mode="enforce",
        fault="error",
        on_error="block",
        message="x",
        version="1",
        input_sha256="",
    )
    assert settled_at_9([trace(ended("delivered", "hi"), shadow)]).layer == ""
    entry = settled_at_9([trace(ended("blocked"), crash)])
    assert (entry.layer, entry.hazard) == ("out1", "")


class Priced:
    """A client that knows what it costs."""

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        return input_tokens * 2.0 + output_tokens * 3.0


@pytest.mark.parametrize(("finish", "text"), [("cancelled", ""), ("cancelled", "hi"), ("unavailable", "hi")])
def test_who_leaves_before_the_server_has_counted_has_used_it_all_the_same(finish: str, text: str) -> None:
    said = replace(SAID, finish=finish, text=text, output_tokens=5)  # type: ignore[arg-type]
    entry = settled_at_9([trace(ended("cut"), said)], Priced())
    assert (entry.input_tokens, entry.output_tokens, entry.usd) == (40, 5, 95.0)


def test_a_server_that_said_nothing_was_not_used() -> None:
    said = replace(SAID, finish="unavailable", text="")
    entry = settled_at_9([trace(ended("unavailable"), said)], Priced())
    assert (entry.input_tokens, entry.output_tokens, entry.usd) == (0, 0, 0.0)


def test_a_model_without_prices_costs_nothing() -> None:
    assert price(object(), 10**6, 10**6) == 0.0


@pytest.mark.parametrize("usage", ["", "[]", "1", "null", "{", '"x"', "\ud800"])
def test_counts_of_a_server_are_an_object_or_nothing(usage: str) -> None:
    assert usage_details(replace(SAID, usage=usage)) == ""


def test_counts_of_a_server_are_passed_on() -> None:
    assert usage_details(replace(SAID, usage='{"a":{"b":1}}')) == '{"a":{"b":1}}'
    assert usage_details(None) == ""


BLANKS = st.sampled_from([" ", "  ", "\n", "\x1c", "\t ", ""])


@given(
    st.text(st.sampled_from(" \t\n\x1d\"'`-_.*(1a\u2019"), max_size=3),
    st.sampled_from(OPENINGS),
    st.text(st.sampled_from(" x'!"), max_size=3),
    BLANKS,
    st.sampled_from("'`"),
    st.booleans(),
)
def test_an_answer_declines_when_it_opens_as_the_judges_say(
    before: str, opening: str, after: str, blank: str, quote: str, loud: bool
) -> None:
    text = before + opening.replace(" ", blank).replace("'", quote) + after
    text = text.upper() if loud else text
    assert declined(trace(ended("delivered", text), SAID)) is opens_with(plain(text[:OPENING]), OPENINGS)
