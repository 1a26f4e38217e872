import io

import pytest
from rich.console import Console

from alignstack.report.schema import Item, Rate
from alignstack.report.why import diagnosis, fixes, show, stopped
from tests.report.sample import HOSTILE

RATE: Rate = {"value": 0.0167, "low": 0.005, "high": 0.059, "n": 120, "upper_bound": False}


def item(**changes: object) -> Item:
    base: Item = {
        "id": "h1",
        "outcome": "harm_delivered",
        "first": None,
        "blockers": [],
        "diagnosis": "threshold",
        "side": "inference",
        "cheapest": {
            "layer": "out1",
            "threshold": 0.31,
            "extra_refusals": 2,
            "rate": RATE,
            "shadow": False,
            "where": "stack.yaml: layers[4]",
        },
        "trace": "60244d70b9f0d910",
        "label": "harmful",
        "hazard": "cse",
        "attack": "base64",
        "layer": "out1",
        "where": "stack.yaml: layers[4]",
        "stochastic": False,
        "but_for": [],
        "evidence": [{"change": "out1 at threshold 0.31", "outcome": "blocked"}],
        "prices": [],
        "fixes": [{"side": "training", "layer": "model", "text": "add the request to the refusal data"}],
    }
    return {**base, **changes}  # type: ignore[typeddict-item]


def shown(one: Item, width: int = 100) -> str:
    out = io.StringIO()
    show(one, Console(file=out, width=width))
    return out.getvalue()


def test_it_names_the_diagnosis_its_evidence_and_both_fixes() -> None:
    text = shown(item())
    assert "threshold (out1):" in text
    assert "out1 at threshold 0.31" in text and "blocked" in text
    assert "2 more benign requests refused, 1.7% (0.5–5.9, n = 120)" in text
    assert "stack.yaml: layers[4].threshold: 0.31" in text
    assert "add the request to the refusal data" in text


def test_the_side_of_the_diagnosis_comes_first() -> None:
    assert [side for side, _, _ in fixes(item())] == ["inference", "training"]
    assert [side for side, _, _ in fixes(item(side="training", diagnosis="blind"))] == ["training", "inference"]


def test_a_shadow_layer_is_fixed_by_enforcing_it() -> None:
    price = {**item()["cheapest"], "shadow": True, "threshold": None}  # type: ignore[dict-item]
    ((_, text, where), *_) = fixes(item(cheapest=price))
    assert text.startswith("enforce out1: 2 more") and where == "stack.yaml: layers[4]"


def test_one_blocker_is_the_cause_and_several_are_overdetermined() -> None:
    one = item(outcome="correct_refusal", diagnosis=None, blockers=["in1"], first="in1", but_for=[["in1"]])
    assert stopped(one) == "stopped by in1 alone: without it the outcome changes"
    two = item(
        outcome="correct_refusal", diagnosis=None, blockers=["in1", "model"], first="in1", but_for=[["in1", "model"]]
    )
    assert "only without all of {in1, model}" in stopped(two)
    assert diagnosis(two).startswith("no failure")


def test_an_outcome_that_varies_says_so() -> None:
    assert diagnosis(item(stochastic=True)).endswith("the outcome varies between draws")


@pytest.mark.parametrize("width", [80, 120])
def test_hostile_text_stays_text(width: int) -> None:
    text = shown(
        item(
            id=HOSTILE,
            hazard=HOSTILE,
            attack=HOSTILE,
            request=HOSTILE,
            answer=HOSTILE,
            evidence=[{"change": HOSTILE, "outcome": HOSTILE}],
        ),
        width,
    )
    assert "[bold]" in text and not {"\x1b", "\u202e", "\x07"} & set(text)
    assert max(map(len, text.splitlines())) <= width
