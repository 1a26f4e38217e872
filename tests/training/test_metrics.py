import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignstack.core.errors import ConfigError
from alignstack.training import metrics, trainer
from alignstack.training.metrics import Metrics
from alignstack.training.monitor import Now


def now(step: int, place: Path | None = None, main: bool = True) -> Now:
    if place is None:
        return Now(step=step, steps=10, epoch=0.0)
    args: Any = SimpleNamespace(output_dir=str(place))
    return Now(step=step, steps=10, epoch=0.0, trainer=SimpleNamespace(args=args, is_world_process_zero=lambda: main))


def begun(work: Path, at: Now) -> Metrics:
    written = Metrics(work, clock=lambda: 1.0)
    written.begin(at)
    return written


def test_every_log_is_a_line(tmp_path: Path) -> None:
    written = begun(tmp_path, now(0))
    written.log(now(1), {"loss": 2.0, "kl": 0.5})
    written.log(now(2), {"train_loss": 1.5, "train_runtime": 3.0})
    assert metrics.read(written.file) == [
        {"step": 1, "time": 1.0, "values": {"loss": 2.0, "kl": 0.5}},
        {"step": 2, "time": 1.0, "summary": {"train_loss": 1.5, "train_runtime": 3.0}},
    ]


def test_loss_that_is_no_number_is_kept_as_a_word(tmp_path: Path) -> None:
    written = begun(tmp_path, now(0))
    written.log(now(1), {"loss": float("nan"), "kl": float("inf"), "epoch": 1.0})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in written.file.read_text().splitlines()]
    assert lines[0]["values"] == {"epoch": 1.0}
    assert lines[1]["not_finite"] == {"loss": "nan", "kl": "inf"}


def test_steps_that_are_done_again_are_written_once(tmp_path: Path) -> None:
    written = begun(tmp_path, now(0))
    for step in range(1, 6):
        written.log(now(step), {"loss": float(step)})
    with written.file.open("a") as file:
        file.write('{"step": 6, "va')  # a kill in the middle of a line
    again = begun(tmp_path, now(3))
    again.log(now(4), {"loss": 40.0})
    assert [(line["step"], line["values"]["loss"]) for line in metrics.read(again.file)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
    ]


def test_new_run_starts_a_new_file(tmp_path: Path) -> None:
    begun(tmp_path, now(0)).log(now(1), {"loss": 1.0})
    assert metrics.read(begun(tmp_path, now(0)).file) == []


def test_several_runs_of_a_stage_keep_their_lines_apart(tmp_path: Path) -> None:
    for place, loss in (("one", 1.0), ("two", 2.0)):
        begun(tmp_path, now(0, tmp_path / place)).log(now(1), {"loss": loss})
    begun(tmp_path, now(0, tmp_path / "two"))  # the second is done again
    assert [(line["part"], line["step"]) for line in metrics.read(tmp_path / metrics.FILE)] == [("one", 1)]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    written = begun(tmp_path, now(0, tmp_path, main=False))
    written.log(now(1), {"loss": 1.0})
    written.keep(1)
    assert written.state() == {} and not written.file.exists()


def test_evaluation_of_the_kept_weights_is_marked_once(tmp_path: Path) -> None:
    written = begun(tmp_path, now(0))
    for step in (2, 4):
        written.write(step, {"evaluation": {"asr/on": step / 10}})
    written.keep(4)
    written.keep(2)
    assert [line.get("kept", False) for line in metrics.read(written.file)] == [True, False]


# ---------------------------------------------------------------- trackers


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in metrics.settings(Path()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(metrics, "_ours", {})
    monkeypatch.setattr(metrics, "TRACKERS", dict.fromkeys(metrics.TRACKERS, "json"))
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.usefixtures("environment")
def test_trackers_stay_in_the_folder_and_off_the_network(tmp_path: Path) -> None:
    metrics.ready(["wandb", "mlflow"], tmp_path, "child")
    assert os.environ["WANDB_MODE"] == "offline" and os.environ["WANDB_DIR"] == str(tmp_path / "track")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/track/mlflow.db"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ and (tmp_path / "track").is_dir()


@pytest.mark.usefixtures("environment")
def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = "online"
    metrics.ready(["wandb"], tmp_path, "child")
    assert os.environ["WANDB_MODE"] == "online"


@pytest.mark.usefixtures("environment")
def test_second_run_of_a_process_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        metrics.ready(["tensorboard"], tmp_path / name, "child")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "two/track/tensorboard")


@pytest.mark.usefixtures("environment")
def test_no_tracker_no_change(tmp_path: Path) -> None:
    before = dict(os.environ)
    metrics.ready([], tmp_path, "child")
    assert dict(os.environ) == before and not (tmp_path / "track").exists()


def test_tracker_that_is_missing_is_an_error_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TRACKERS", {"tensorboard": "no_such_package"})
    with pytest.raises(
        ConfigError, match="child: track: 'tensorboard' is not installed; `pip install no_such_package`"
    ):
        metrics.ready(["tensorboard"], tmp_path, "child")


def test_trainer_reports_to_what_is_asked_and_to_nothing_else(tmp_path: Path) -> None:
    def asked(*track: trainer.Tracker) -> object:
        run = trainer.Run(work=tmp_path, seed=0, optimiser=trainer.Optimiser(), track=track)
        return trainer.common(run)["report_to"]

    assert asked() == "none" and asked("tensorboard", "wandb") == ["tensorboard", "wandb"]
