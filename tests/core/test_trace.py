from typing import Any

import pytest

from alignstack.core.events import Event, LayerError, LayerEvent, OutcomeEvent
from alignstack.core.trace import Trace, verdicts
from alignstack.core.verdict import Action, Verdict

SEEN: dict[str, Any] = {"phase": "request", "version": "v", "input_sha256": "0"}


def said(layer: str, action: Action, mode: Any = "enforce") -> LayerEvent:
    return LayerEvent(layer=layer, mode=mode, verdict=Verdict(action=action), **SEEN)


def failed(layer: str, on_error: Any = "allow") -> LayerError:
    return LayerError(layer=layer, mode="enforce", fault="timeout", on_error=on_error, message="slow", **SEEN)


def trace(*events: Event, status: Any = "blocked") -> Trace:
    return Trace(id="a", stack="s", events=(*events, OutcomeEvent(status=status, delivered="")))


def test_layers_that_saw_nothing_abstained() -> None:
    seen = trace(said("in1", "allow"), failed("in2"), said("other", "block"))
    assert verdicts(seen, ("in1", "in2", "out1")) == {"in1": "allow", "in2": "error", "out1": "abstain"}


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ((said("out1", "allow"), said("out1", "block")), "block"),
        ((said("out1", "block"), failed("out1")), "block"),
        ((failed("out1"), said("out1", "allow")), "error"),
        ((said("out1", "abstain"), said("out1", "modify")), "modify"),
    ],
)
def test_of_several_looks_the_weightiest_counts(events: tuple[Event, ...], verdict: str) -> None:
    assert verdicts(trace(*events), ("out1",)) == {"out1": verdict}


def test_first_enforced_block_stopped_it() -> None:
    shadow, block = said("in1", "block", "shadow"), said("in2", "block")
    assert trace(shadow, failed("in0"), block, said("in3", "block")).stopped_by == block
    assert trace(failed("in0", "block"), block).stopped_by == failed("in0", "block")
    assert trace(said("in1", "block"), status="delivered").stopped_by is None
