"""One request down the stack: what each layer said and what its failure would have led to."""

from alignstack.core.layer import View
from alignstack.core.messages import Message, user
from alignstack.core.verdict import Verdict
from alignstack.engine.cascade import cascade
from alignstack.engine.run import run
from tests.engine.parts import CLOCK, Rule, Says, allow, flags, place, says, stack


def prompt(view: View) -> Verdict:
    return Verdict(action="modify", messages=(Message(role="system", content="be good"), *view.messages))


def built() -> object:
    model = Says(lambda messages: list("phish?" if messages[0].role == "system" else "phish!"), version="aligned")
    return stack(
        Rule("limit", lambda v: Verdict(action="abstain" if v.audit else "allow"), stateful=True),
        Rule("words", flags("phish")),
        place(Rule("shadow", flags("phish")), mode="shadow"),
        Rule("system", prompt, phase="prompt", kind="modifier"),
        Rule("out", flags("phish!", "base"), phase="output"),
        Rule("last", flags("base"), phase="output"),
        model=model,
        reference=says("base phish", version="helpful"),
    )


async def test_each_failure_leads_to_the_next_stop_or_to_the_user() -> None:
    steps = await cascade(built(), user("a phishing mail"), clock=CLOCK)
    assert [(step.layer, step.action, step.next_stop, step.delivered) for step in steps] == [
        ("limit", "abstain", "words", None),
        ("words", "block", None, "phish?"),
        ("shadow", "block", None, "phish?"),
        ("system", "modify", "out", None),
        ("model", None, "out", None),
        ("out", "allow", "last", None),
        ("last", "allow", None, "base phish"),
    ]
    assert steps[4].text == "phish?"


async def test_limits_show_what_they_said_in_production() -> None:
    stack_, messages = built(), user("a phishing mail")
    trace = await run(stack_, messages, clock=CLOCK, trace_id="t")
    steps = await cascade(stack_, messages, clock=CLOCK, trace=trace)
    assert steps[0].action == "allow"


async def test_a_crash_shows_as_a_fault() -> None:
    steps = await cascade(stack(Rule("in", lambda view: 1 / 0), Rule("b", allow)), user("hi"), clock=CLOCK)
    assert (steps[0].action, steps[0].fault, steps[0].reason) == (None, "error", "ZeroDivisionError: division by zero")
    assert steps[0].delivered == "fine"
