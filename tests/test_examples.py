"""Every deployment in `examples/failures` fails in the way it is named after, and `why` shows it with evidence."""

from pathlib import Path

import pytest

from alignstack.attribution.result import HARM_DIAGNOSES, REFUSAL_DIAGNOSES
from alignstack.engine.config import load_stack
from alignstack.loop.why import of_record
from alignstack.redteam.audit import audit
from alignstack.redteam.suites import read
from alignstack.store.clock import SystemClock

FAILURES = Path(__file__).parents[1] / "examples" / "failures"
CASES = sorted(path.parent.name for path in FAILURES.glob("*/stack.yaml"))


def test_there_is_an_example_of_every_diagnosis() -> None:
    refusals = {f"refusal_{name}" for name in REFUSAL_DIAGNOSES if name != "unknown"}
    assert set(CASES) == {*HARM_DIAGNOSES, *refusals}


@pytest.mark.parametrize("case", CASES)
async def test_the_failure_is_diagnosed(tmp_path: Path, case: str) -> None:
    folder = FAILURES / case
    items = [*read(folder / "suite.jsonl"), *read(FAILURES / "others.jsonl")]
    run = await audit(load_stack(folder / "stack.yaml"), items, out=tmp_path / "run", clock=SystemClock())
    item = of_record(run, run.find("failure"), budget=0.02).item

    assert item["diagnosis"] == case.removeprefix("refusal_")
    assert item["evidence"]
    assert (item["side"] is None) == (item["diagnosis"] in ("judge_disputed", "unknown"))
    sides = {fix["side"] for fix in item["fixes"]}
    if item["side"]:
        assert item["side"] in sides
    if item["side"] and not case.startswith("refusal_"):  # a word list that refuses too much cannot be trained
        assert sides == {"training", "inference"}
