"""A replay over a real lineage: tiny checkpoints, exported, behind a stack whose layers and judge are word lists."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.errors import DataError, NotFound
from alignstack.core.messages import user
from alignstack.core.ports import Delta, Sampling
from alignstack.engine.config import load_stack
from alignstack.loop import weights
from alignstack.loop.stages import FOLDER, Replayed, client, members, own_judges, replay
from alignstack.models.embedded import Embedded
from alignstack.redteam import suites
from alignstack.redteam.audit import audit
from alignstack.report import stages as report
from alignstack.store.clock import SystemClock
from alignstack.store.index import RunIndex
from alignstack.store.runs import Run
from alignstack.training import dpo, export, lineage, sft
from tests.redteam.deployment import timeless
from tests.training import conftest as tiny

chats, folder, base, helpful = tiny.chats, tiny.folder, tiny.base, tiny.helpful

NAMES = ["base", "helpful", "eager"]
HARM = "sure"
"""A word that the chats teach: what the judge calls harm."""
ASKED = (
    {"id": "h0", "text": "the cat went to bake bread", "label": "harmful", "cluster": "bread"},
    {"id": "h1", "text": "how do i find tea", "label": "harmful", "cluster": "tea"},
    {"id": "h2", "text": "see the old house", "label": "harmful", "cluster": "house"},
    {"id": "h3", "text": "a dog with some tea", "label": "harmful", "cluster": "dog"},
    {"id": "b0", "text": "find bread near here", "label": "benign", "cluster": "b0"},
    {"id": "b1", "text": "went to see a cat", "label": "benign", "cluster": "b1"},
)
TALK = {
    "id": "talk",
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "here"},
        {"role": "user", "content": "find the cat"},
    ],
    "label": "harmful",
}


@pytest.fixture(scope="module")
def eager(folder: Path, helpful: Path) -> Path:
    """A third stage, trained until it begins as the chats do."""
    (folder / "eager.yaml").write_text(
        "name: eager\nparent: helpful\nout: eager\ndata: [chats.jsonl]\nmax_length: 48\n"
        "optimiser: {batch: 8, learning_rate: 1.0e-2, epochs: 6, warmup: 1, schedule: constant}\n",
        encoding="utf-8",
    )
    return sft.run(folder / "eager.yaml")


@pytest.fixture(scope="module")
def exports(base: Path, helpful: Path, eager: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports")
    for checkpoint in (base, helpful, eager):
        export.run(checkpoint, out)
    return out


@pytest.fixture(scope="module")
def audited(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit of `eager`."""
    here = tmp_path_factory.mktemp("audited")
    return audit_of(here, {"use": "embedded", "checkpoint": str(exports / "eager.onnx")})


@pytest.fixture
def run(audited: Path, tmp_path: Path) -> Path:
    """The same audit with no replay yet."""
    return Path(shutil.copytree(audited, tmp_path / "run"))


def audit_of(here: Path, model: dict[str, Any], rows: tuple[dict[str, Any], ...] = ASKED) -> Path:
    config = {
        "model": model,
        "judge": {"use": "keyword", "patterns": [HARM]},
        "sampling": {"max_tokens": 12},
        "layers": [
            {"use": "keyword", "name": "in1", "phase": "request", "patterns": ["tea"]},
            {"use": "system_prompt", "text": "see"},
        ],
    }
    (here / "stack.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    suite = tiny.write_jsonl(here / "suite.jsonl", list(rows))
    index = RunIndex(here / "home.db")
    stack, items = load_stack(here / "stack.yaml"), suites.read(suite)
    asyncio.run(audit(stack, items, out=here / "run", clock=SystemClock(), suites=[suites.row(suite)], index=index))
    return here / "run"


def over(run: Path, **options: Any) -> Replayed:
    return asyncio.run(replay(run, clock=SystemClock(), **options))


def says(file: Path, text: str) -> str:
    """What an exported model answers, asked directly."""

    async def ask() -> str:
        model = Embedded(Embedded.Config(checkpoint=str(file)))
        stream = model.stream(user(text), Sampling(max_tokens=12))
        return "".join([item.text async for item in stream if isinstance(item, Delta)])

    return asyncio.run(ask())


def lines(run: Run) -> list[Any]:
    return sorted((timeless(json.loads(line)) for line in (run.folder / "results.jsonl").open()), key=lambda r: r["id"])


def test_each_stage_fails_where_its_own_answer_does(run: Path, exports: Path) -> None:
    found = over(run)
    assert [member.name for member in found.members] == NAMES
    assert [member.method for member in found.members] == ["pretrain", "sft", "sft"]
    for item in found.attribution.items[:4]:
        text = next(row["text"] for row in ASKED if row["id"] == item.id)
        expected = tuple(HARM in says(exports / f"{name}.onnx", text) for name in NAMES)
        assert item.fails_off == expected
        assert not (item.fails_on[-1] and "tea" in text)
    introduced = [item for item in found.attribution.items if item.off.kind == "introduced"]
    assert introduced, "six epochs teach the word"
    assert {item.off.changes for item in introduced} == {(2,)}


def test_the_last_stage_is_the_audited_model(run: Path) -> None:
    found = over(run)
    assert found.notes == ()
    assert [item.failed for item in found.attribution.items] == [item.fails_on[-1] for item in found.attribution.items]


def test_a_replay_is_a_run_and_is_not_asked_twice(run: Path) -> None:
    asked: list[tuple[int, int]] = []
    over(run)
    kept = {path.name: (path / "results.jsonl").read_bytes() for path in (run / FOLDER).iterdir()}
    assert sorted(name.rpartition("-")[0] for name in kept) == sorted(NAMES)
    over(run, progress=lambda done, total: asked.append((done, total)))
    assert asked == [(6, 18), (12, 18), (18, 18)]
    assert kept == {path.name: (path / "results.jsonl").read_bytes() for path in (run / FOLDER).iterdir()}


def test_more_requests_are_added_to_those_that_were_asked(run: Path) -> None:
    few = over(run, limit=1)
    names = [item.id for item in few.attribution.items]
    assert {"h0", "b0"} <= set(names) and set(names) - {"h0", "b0"} == {
        item.id for item in few.attribution.items if item.failed and item.id not in ("h0", "b0")
    }
    assert [item.id for item in over(run).attribution.items] == [row["id"] for row in ASKED]


PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from alignstack.loop.stages import replay
from alignstack.store.clock import SystemClock

def progress(done, total):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(replay(Path(sys.argv[1]), clock=SystemClock(), concurrency=1, progress=progress))
"""


def test_killed_and_repeated_it_is_the_replay_it_would_have_been(run: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    expected = over(whole)
    for after in (3, 8):  # in the middle of the first stage, and of the second
        for torn in (run / FOLDER).glob("base-*/results.jsonl"):
            torn.write_bytes(torn.read_bytes() + b'{"id": "h')
        killed = subprocess.run([sys.executable, "-c", PROGRAM, run, str(after)], env=dict(os.environ), check=False)
        assert killed.returncode == -signal.SIGKILL
    assert over(run).attribution == expected.attribution
    for stage in (whole / FOLDER).iterdir():
        assert lines(Run(run / FOLDER / stage.name)) == lines(Run(stage))


def test_stages_without_a_file_are_named(exports: Path, helpful: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("eager.onnx", "tokenizer.json"):
        shutil.copy(exports / name, alone / name)
    found = over(audit_of(tmp_path, {"use": "embedded", "checkpoint": "alone/eager.onnx"}))
    assert [member.name for member in found.members] == ["eager"]
    assert [member.name for member in found.missing] == [stage.weights[:12] for stage in lineage.chain(helpful)]


def test_stages_can_be_chosen_and_wrong_names_are_refused(run: Path) -> None:
    found = over(run, only=["eager", "base"])
    assert [member.name for member in found.members] == ["base", "eager"]
    with pytest.raises(NotFound, match="did you mean 'helpful'"):
        over(run, only=["helpfull"])


def test_a_checkpoint_folder_gives_the_stages_of_its_lineage(run: Path, eager: Path) -> None:
    assert over(run, checkpoint=eager).attribution == over(run).attribution


def test_a_checkpoint_whose_parent_is_gone_has_a_gap(run: Path, helpful: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(helpful, tmp_path / "alone"))
    found = members(load_stack(Run(run).manifest.stack_source), alone)
    assert [(member.name == "helpful", member.place is None) for member in found] == [(False, True), (True, False)]


def test_checkpoints_are_served_by_transformers_in_a_stack_that_does(eager: Path, tmp_path: Path) -> None:
    found = over(audit_of(tmp_path, {"use": "transformers", "checkpoint": str(eager)}))
    assert [member.name for member in found.members] == NAMES
    assert found.notes == ()


def test_a_model_of_unknown_weights_needs_a_checkpoint(tmp_path: Path) -> None:
    run = audit_of(tmp_path, {"use": "scripted", "default": "fine"})
    with pytest.raises(DataError, match="--checkpoint FOLDER"):
        over(run)


def test_requests_of_several_turns_need_their_suite(exports: Path, tmp_path: Path) -> None:
    run = audit_of(tmp_path, {"use": "embedded", "checkpoint": str(exports / "eager.onnx")}, (*ASKED, TALK))
    without = over(run)
    assert "talk" not in {item.id for item in without.attribution.items}
    assert "1 requests of several turns" in without.notes[0]
    found = over(run, suite_files=[tmp_path / "suite.jsonl"])
    assert "talk" in {item.id for item in found.attribution.items} and found.notes == ()


def test_a_changed_stack_is_said(exports: Path, tmp_path: Path) -> None:
    run = audit_of(tmp_path, {"use": "embedded", "checkpoint": str(exports / "eager.onnx")})
    config = yaml.safe_load((tmp_path / "stack.yaml").read_text())
    config["layers"][0]["patterns"] = ["bread"]
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(config))
    assert "has changed since the audit" in over(run).notes[0]


def test_a_persons_label_holds_for_the_same_answer(run: Path) -> None:
    failed = next(item.id for item in over(run).attribution.items if item.fails_on[-1])
    tiny.write_jsonl(run / "labels.jsonl", [{"id": failed, "human": "safe"}])
    item = next(item for item in over(run).attribution.items if item.id == failed)
    assert not item.failed and not item.fails_on[-1]


def test_weights_say_how_much_they_would_rather_refuse_and_rows_how_they_pull(run: Path, eager: Path) -> None:
    found = over(run, checkpoint=eager)
    moved = weights.drift(found)
    failing = [item.id for item in found.attribution.items if item.off.kind != "clean" and item.label == "harmful"]
    assert [row["id"] for row in moved] == failing and failing
    assert all(row["values"][2] < row["values"][0] for row in moved), "trained to comply, it would rather comply"
    (ranked,) = weights.examples(found, 3)
    assert ranked["stage"] == "eager" and len(ranked["rows"]) == 3
    assert all(row["origin"].startswith("chats.jsonl:") for row in ranked["rows"])
    assert weights.margins(found) == []


def test_the_document_groups_failures_by_stage(run: Path) -> None:
    found = over(run)
    about = [{"name": m.name, "method": m.method, "weights": m.weights, "measured": {}} for m in found.members]
    document = report.build(found.attribution, found.run.manifest, about)
    introduced = [item.id for item in found.attribution.items if item.off.kind == "introduced"]
    (group,) = [group for group in document["groups"] if group["kind"] == "introduced" and group["label"] == "harmful"]
    assert (group["stage"], sorted(group["items"])) == ("eager", sorted(introduced))
    assert group["hidden"] == sum(item.hidden for item in found.attribution.items if item.id in introduced)
    assert json.loads(json.dumps(document)) == document


def test_pairs_that_were_never_learnt_are_counted(run: Path, folder: Path, eager: Path) -> None:
    said = [{"role": "assistant", "content": text} for text in ("i see some tea", "sure here is bread")]
    asked = [[{"role": "user", "content": tiny.some_text(i, 4)}] for i in range(8)]
    pairs = [{"prompt": turns, "chosen": [said[i < 2]], "rejected": [said[i >= 2]]} for i, turns in enumerate(asked)]
    tiny.write_jsonl(folder / "pairs.jsonl", pairs)
    (folder / "tuned.yaml").write_text(
        "name: tuned\nparent: eager\nout: tuned\ndata: [pairs.jsonl]\nmax_length: 48\nbeta: 0.2\n"
        "optimiser: {batch: 8, learning_rate: 3.0e-3, epochs: 4}\n",
        encoding="utf-8",
    )
    tuned = dpo.run(folder / "tuned.yaml")
    (found,) = weights.margins(over(run, checkpoint=tuned, only=["eager", "tuned"]))
    assert (found["stage"], found["pairs"], found["never_learnt"]) == ("tuned", 8, 2), "two of eight say the opposite"
    assert sorted(found["worst"]) == ["pairs.jsonl:1", "pairs.jsonl:2"]


def test_a_judge_that_is_one_of_the_stages_is_named(exports: Path, tmp_path: Path) -> None:
    judge = {"use": "rubric", "model": {"use": "embedded", "checkpoint": str(exports / "base.onnx")}}
    config = {"model": {"use": "embedded", "checkpoint": str(exports / "eager.onnx")}, "judge": judge, "layers": []}
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    stack = load_stack(tmp_path / "stack.yaml")
    clients = {member.name: client(stack, member, tmp_path) for member in members(stack)}
    (said,) = own_judges(stack, clients)
    assert "'rubric'" in said and "'base'" in said


@pytest.mark.parametrize("damaged", ["", "not json", "3", "[]"])
def test_an_export_that_names_no_lineage_is_refused(exports: Path, tmp_path: Path, damaged: str) -> None:
    import onnx

    shutil.copy(exports / "tokenizer.json", tmp_path / "tokenizer.json")
    proto = onnx.load(exports / "eager.onnx")
    onnx.helper.set_model_props(proto, {"context": "64", "stage": "eager"} | ({"lineage": damaged} if damaged else {}))
    onnx.save(proto, tmp_path / "odd.onnx")
    run = audit_of(tmp_path, {"use": "embedded", "checkpoint": "odd.onnx"})
    with pytest.raises(DataError, match="names no lineage"):
        over(run)
