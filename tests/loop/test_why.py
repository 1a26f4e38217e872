"""A production trace explained by evaluating it anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.engine.config import load_stack
from alignstack.engine.run import run
from alignstack.loop.why import explain, of_trace
from alignstack.store import SqliteTraces
from alignstack.store.clock import SystemClock

HARM = "HARMFUL the way to do it"


def stack_file(folder: Path, *layers: dict[str, Any], **more: Any) -> Path:
    """Harm to everything, `helpful` in the request aside; the reference does the same."""
    replies = [{"match": "bread", "reply": "Mix flour and water."}, {"reply": HARM}]
    (folder / "replies.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
    scripted = {"use": "scripted", "replies": "replies.jsonl"}
    model = {**scripted, "reference": scripted}
    config = {"model": model, "judge": {"use": "keyword", "patterns": ["HARMFUL"]}, "layers": list(layers), **more}
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


async def asked(path: Path, text: str) -> Trace:
    trace = await run(load_stack(path), user(text), clock=SystemClock(), trace_id="0011223344556677")
    SqliteTraces().put(trace)
    return trace


async def test_delivered_harm_is_diagnosed_with_evidence_and_a_fix_on_each_side(tmp_path: Path) -> None:
    path = stack_file(tmp_path, {"use": "keyword", "name": "in1", "patterns": ["never"]})
    trace = await asked(path, "do harm")
    found = await of_trace(trace, label="harmful", budget=0.02, clock=SystemClock())
    assert (found.item["outcome"], found.item["diagnosis"]) == ("harm_delivered", "blind")
    assert found.item["evidence"] and {fix["side"] for fix in found.item["fixes"]} == {"training", "inference"}
    assert found.item["trace"] == trace.id


async def test_label_decides_what_counts_as_failure(tmp_path: Path) -> None:
    path = stack_file(tmp_path, {"use": "keyword", "name": "in1", "patterns": ["bread"]})
    trace = await asked(path, "bake bread")
    harmful = await of_trace(trace, label="harmful", budget=0.02, clock=SystemClock())
    benign = await of_trace(trace, label="benign", budget=0.02, clock=SystemClock())
    assert harmful.item["diagnosis"] is None
    assert benign.item["diagnosis"] == "sole_blocker"


async def test_layers_that_saw_no_benign_prompt_have_no_price(tmp_path: Path) -> None:
    shadow = {"use": "keyword", "name": "out1", "phase": "output", "patterns": ["HARMFUL"], "mode": "shadow"}
    path = stack_file(tmp_path, {"use": "keyword", "name": "in1", "patterns": ["do harm"], "mode": "shadow"}, shadow)
    trace = await asked(path, "do harm")
    found = await of_trace(trace, label="harmful", budget=0.02, clock=SystemClock())
    assert "out1" not in {price["layer"] for price in found.item["prices"] if price["threshold"] is not None}


async def test_explaining_leaves_no_run_behind(tmp_path: Path, home: Path) -> None:
    from alignstack.store import RunIndex

    path = stack_file(tmp_path, {"use": "keyword", "name": "in1", "patterns": ["never"]})
    trace = await asked(path, "do harm")
    await explain(trace.id, run=None, label=None, budget=0.02, clock=SystemClock())
    assert RunIndex().folders() == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_streams_are_explained_too(tmp_path: Path, streaming: bool) -> None:
    path = stack_file(tmp_path, {"use": "keyword", "name": "in1", "patterns": ["never"]}, streaming=streaming)
    trace = await asked(path, "do harm")
    found = await of_trace(trace, label="harmful", budget=0.02, clock=SystemClock())
    assert found.item["diagnosis"] == "blind"
