"""What every method does before and after it trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.errors import DataError, NotFound
from alignstack.training import lineage, sft, stage, trainer
from alignstack.training.metrics import Metrics
from alignstack.training.monitor import Monitor, Now, Stop, TrainingStopped
from alignstack.training.stage import Tools


@pytest.fixture
def recipe(folder: Path, base: Path, tmp_path: Path) -> Path:
    tree = {
        "name": "child", "parent": str(base), "out": "child", "data": [str(folder / "chats.jsonl")], "max_length": 48,
        "save_every": 2, "optimiser": {"batch": 10, "steps": 4, "warmup": 1},
    }  # fmt: skip
    (tmp_path / "child.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return tmp_path / "child.yaml"


class Ender(Monitor):
    """Ends a run after a step: by a reason, or like a kill."""

    name = "ender"

    def __init__(self, at: int, stop: Stop | None) -> None:
        self.at, self.stop = at, stop

    def step(self, now: Now) -> Stop | None:
        if now.step == self.at and self.stop is None:
            raise KeyboardInterrupt
        return self.stop if now.step == self.at else None


def tools(at: int = 0, stop: Stop | None = None, resume: bool = False) -> Tools:
    return Tools(resume=resume, monitors=lambda _, work: (Metrics(work), Ender(at, stop)))


def test_finished_folder_is_whole_and_alone(recipe: Path) -> None:
    out = sft.run(recipe, tools())
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "lineage.json", "recipe.yaml", "rows.jsonl.gz", "README.md"} <= names
    assert {"metrics.jsonl", "manifest.jsonl"} <= names
    assert (out / "recipe.yaml").read_bytes() == recipe.read_bytes()
    assert not out.with_name("child.work").exists()
    record = lineage.read(out)
    assert record.steps == 4 and record.stopped is None and record.peak_mb > 100
    assert record.rows == lineage.sha256(out / "rows.jsonl.gz") and record.policy


def test_rows_are_kept_as_they_were_trained_on(recipe: Path, chats: list[dict[str, Any]]) -> None:
    rows = stage.read_rows(sft.run(recipe, tools()) / stage.ROWS)
    asked = [row["messages"][0]["content"] for row in rows]
    assert asked and set(asked) <= {chat["messages"][0]["content"] for chat in chats}
    assert all(row["origin"].startswith("chats.jsonl:") for row in rows)


def test_alarm_leaves_no_checkpoint_and_keeps_the_metrics(recipe: Path) -> None:
    with pytest.raises(TrainingStopped, match="'child' was stopped at step 3: too long") as error:
        sft.run(recipe, tools(3, Stop(reason="too long", failed=True)))
    assert not (recipe.parent / "child").exists()
    assert (recipe.parent / "child.work/metrics.jsonl").is_file() and "metrics.jsonl" in str(error.value)


def test_early_end_is_a_checkpoint_that_says_so(recipe: Path) -> None:
    out = sft.run(recipe, tools(3, Stop(reason="nothing better", failed=False)))
    assert (lineage.read(out).steps, lineage.read(out).stopped) == (3, "nothing better")
    assert "It ended early: nothing better." in (out / "README.md").read_text(encoding="utf-8")


def test_cut_off_run_is_not_overwritten(recipe: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sft.run(recipe, tools(3))
    with pytest.raises(DataError, match="`--resume` goes on with it, or delete it"):
        sft.run(recipe, tools())
    assert lineage.read(sft.run(recipe, tools(resume=True))).steps == 4


def test_resumed_run_trains_on_the_rows_it_began_with(recipe: Path, tmp_path: Path, folder: Path) -> None:
    """The data file changes in between; the rows do not."""
    text = recipe.read_text(encoding="utf-8").replace(str(folder / "chats.jsonl"), "own.jsonl")
    recipe.write_text(text, encoding="utf-8")
    own = tmp_path / "own.jsonl"
    own.write_bytes((folder / "chats.jsonl").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        sft.run(recipe, tools(3))
    before = stage.read_rows(tmp_path / "child.work" / stage.ROWS)
    own.write_text(own.read_text(encoding="utf-8").replace("sure here is", "never"), encoding="utf-8")
    assert stage.read_rows(sft.run(recipe, tools(resume=True)) / stage.ROWS) == before


def test_second_run_replaces_the_first(recipe: Path) -> None:
    first = lineage.read(sft.run(recipe, tools())).weights
    recipe.write_text(recipe.read_text(encoding="utf-8") + "seed: 9\n", encoding="utf-8")
    assert lineage.read(sft.run(recipe, tools())).weights != first


def test_parent_of_no_such_name_is_an_error(recipe: Path) -> None:
    with pytest.raises(NotFound, match="embedded checkpoint 'helpfull'"):
        stage.find("embedded:helpfull", recipe)


def test_trackers_files_come_along(recipe: Path, tmp_path: Path) -> None:
    class Tracker(Monitor):
        name = "tracker"

        def begin(self, now: Now) -> None:
            (tmp_path / "child.work/track").mkdir()
            (tmp_path / "child.work/track/events").write_text("x")

    out = sft.run(recipe, Tools(monitors=lambda _, work: (Tracker(),)))
    assert (out / "track/events").read_text() == "x"


def test_evaluation_of_the_kept_weights_is_found(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert stage.evaluation(file) == {}
    lines = [{"step": 1, "evaluation": {"asr/on": 0.1}, "kept": True}, {"step": 2, "evaluation": {"asr/on": 0.3}}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert stage.evaluation(file)["step"] == 1


@pytest.mark.parametrize(("content", "message"), [(None, "keeps no rows"), (b"no gzip", "is damaged")])
def test_rows_that_cannot_be_read_are_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / stage.ROWS).write_bytes(content)
    with pytest.raises(DataError, match=message):
        stage.read_rows(tmp_path / stage.ROWS)


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "où"}]}]
    for name in ("one", "two"):
        stage.write_rows(tmp_path / name / stage.ROWS, rows)
    assert (tmp_path / "one" / stage.ROWS).read_bytes() == (tmp_path / "two" / stage.ROWS).read_bytes()
    assert stage.read_rows(tmp_path / "one" / stage.ROWS) == rows


def test_lineage_on_the_card_starts_at_the_first_stage(recipe: Path) -> None:
    out = sft.run(recipe, tools())
    assert [one["stage"] for one in stage.before(out)] == ["base", "child"]
    assert trainer.load(out)[0].num_parameters() > 0
