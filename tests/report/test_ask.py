import io

import pytest
from rich.console import Console

from alignstack.core.events import ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.engine.cascade import Step
from alignstack.engine.outcomes import Outcome
from alignstack.report.ask import rows, show
from tests.report.sample import HOSTILE

BLOCKED = Outcome(status="blocked", delivered="I can't help with that.", draft=0, blockers=("in2", "out1"))
DELIVERED = Outcome(status="delivered", delivered="Dear customer", draft=1)
CUT = Outcome(status="cut", delivered="Dear cus", released_tokens=3, draft=1, blockers=("out1",))


def step(**changes: object) -> Step:
    base: dict[str, object] = {
        "layer": "in1",
        "kind": "veto",
        "side": "inference",
        "phase": "request",
        "mode": "enforce",
        "action": "block",
        "then": BLOCKED,
    }
    return Step(**(base | changes))  # type: ignore[arg-type]


def weights(**changes: object) -> Step:
    fixed = {"layer": "model", "kind": "modifier", "side": "training", "phase": "model", "action": None, "text": "No."}
    return step(**(fixed | changes))


def shown(steps: list[Step], width: int = 100) -> str:
    trace = Trace(
        id="t-1",
        stack="f",
        events=(RequestEvent(messages=user("x")), OutcomeEvent(status="blocked", delivered=HOSTILE)),
    )
    out = io.StringIO()
    show(steps, trace, Console(file=out, width=width))
    return out.getvalue()


def test_why_there_was_no_answer_is_said_in_full() -> None:
    why = "model server 'http://127.0.0.1:8000/v1' answered HTTP 401: " + "the key is not known; " * 8 + "ask for one"
    silent = ModelEvent(
        model="m", version="1", input_sha256="", messages=user("x"), text="", finish="unavailable", message=why
    )
    trace = Trace(id="t-1", stack="f", events=(silent, OutcomeEvent(status="unavailable", delivered="")))
    out = io.StringIO()
    show([weights(text="", reason=why)], trace, Console(file=out, width=500))
    assert f"unavailable: {why}" in " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reason": "matched 'phishing'"}, "blocks: matched 'phishing'"),
        ({"score": 0.97, "threshold": 0.5, "hazard": "ncr"}, "blocks (ncr, 0.97 ≥ 0.50)"),
        ({"action": "allow", "score": 0.12, "threshold": 0.5}, "lets it pass (0.12 < 0.50)"),
        ({"score": 0.97, "hazard": "ncr", "reason": "probability of harm 0.97"}, "blocks: probability of harm 0.97"),
        ({"action": "abstain"}, "has nothing to say"),
        ({"action": None}, "has nothing to look at"),
        ({"action": None, "fault": "timeout"}, "is down (timeout)"),
        ({"action": "modify"}, "changes what the next ones see"),
        ({"mode": "shadow"}, "in shadow: would block"),
    ],
)
def test_what_happened(changes: dict[str, object], said: str) -> None:
    assert rows([step(**changes)])[0].happened == said


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (BLOCKED, "in2 stops it"),
        (DELIVERED, "the user receives: “Dear customer”"),
        (Outcome(status="delivered", delivered="I can’t help.", draft=0), "the model refuses: “I can’t help.”"),
        (CUT, "out1 cuts it, too late: “Dear cus”"),
        (Outcome(status="unavailable", delivered="", draft=0), "no answer"),
    ],
)
def test_what_would_have_followed(then: Outcome, said: str) -> None:
    assert rows([step(then=then)])[0].if_failed == said


def test_after_a_block_the_others_only_would_have() -> None:
    table = rows([step(), step(layer="in2"), weights()])
    assert [row.happened for row in table] == ["blocks", "would block", "would say: “No.”"]


def test_a_shadow_block_stops_nobody() -> None:
    assert rows([step(mode="shadow"), weights()])[1].happened == "says: “No.”"


def test_a_model_without_an_answer_says_why() -> None:
    assert rows([weights(text="", reason="connection refused")])[0].happened == "gives no answer: connection refused"


@pytest.mark.parametrize("width", [80, 120])
def test_hostile_text_stays_text(width: int) -> None:
    text = shown([step(reason=HOSTILE, layer=HOSTILE), weights(text=HOSTILE)], width)
    assert "[bold]" in text and not {"\x1b", "\u202e", "\x07"} & set(text)
    assert max(map(len, text.splitlines())) <= width


def test_the_reply_and_the_trace_id_are_shown() -> None:
    text = shown([step()])
    assert "blocked: <script>" in text and "trace t-1" in text
