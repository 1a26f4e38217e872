"""What monitors see of a run, and what they can do to it, through the real trainer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alignstack.training import trainer
from alignstack.training.monitor import Monitor, Now, Stop

Chats = list[dict[str, Any]]


class Diary(Monitor):
    """Writes down every call."""

    name = "diary"

    def __init__(self, stop: Stop | None = None, at: int = 0, cut: int = 0) -> None:
        self.calls: list[tuple[str, int]] = []
        self.stop, self.at, self.cut, self.count = stop, at, cut, 0

    def begin(self, now: Now) -> None:
        self.calls.append(("begin", now.step))
        assert now.steps == 6 and now.model is not None and now.tokenizer is not None and now.trainer is not None

    def step(self, now: Now) -> Stop | None:
        self.count += 1
        self.calls.append(("step", now.step))
        if now.step == self.cut:
            raise KeyboardInterrupt
        return self.stop if now.step == self.at else None

    def log(self, now: Now, values: Mapping[str, float]) -> None:
        if "loss" in values:
            self.calls.append(("log", now.step))

    def end(self, now: Now) -> None:
        self.calls.append(("end", now.step))

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


def run(base: Path, chats: Chats, work: Path, *watching: Monitor, **more: Any) -> trainer.Trained:
    model, tokenizer = trainer.load(base)
    settings = trainer.Optimiser(batch=10, steps=6, warmup=1)
    how = trainer.Run(
        work=work, seed=1, optimiser=settings, max_length=48, monitors=watching, **{"log_every": 3, **more}
    )
    return trainer.sft(model, tokenizer, chats, how)


def test_calls_come_in_order(base: Path, chats: Chats, tmp_path: Path) -> None:
    diary = Diary()
    trained = run(base, chats, tmp_path, diary)
    steps = [("begin", 0), ("step", 1), ("log", 1), ("step", 2), ("step", 3), ("log", 3), ("step", 4), ("step", 5)]
    assert diary.calls == [*steps, ("step", 6), ("log", 6), ("end", 6)]
    assert trained.steps == 6 and trained.stop is None


def test_stop_ends_the_run_after_the_step(base: Path, chats: Chats, tmp_path: Path) -> None:
    diary = Diary(Stop(reason="enough", failed=False), at=2)
    trained = run(base, chats, tmp_path, diary)
    assert trained.steps == 2 and trained.stop == Stop(reason="enough", failed=False)
    assert diary.calls[-1] == ("end", 2)


def test_of_two_reasons_in_one_step_the_alarm_counts(base: Path, chats: Chats, tmp_path: Path) -> None:
    alarm = Stop(reason="alarm", failed=True)
    first, second = Diary(Stop(reason="enough", failed=False), at=2), Diary(alarm, at=2)
    second.name = "second"
    assert run(base, chats, tmp_path, first, second).stop == alarm


def test_state_survives_a_kill(base: Path, chats: Chats, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(base, chats, tmp_path, Diary(cut=5), save_every=2)
    again = Diary()
    run(base, chats, tmp_path, again, save_every=2, resume=True)
    assert again.calls[0] == ("begin", 4) and again.count == 6


def test_checkpoint_without_its_last_file_is_passed_over(base: Path, chats: Chats, tmp_path: Path) -> None:
    """A kill in the middle of saving: the run goes on from the one before."""
    with pytest.raises(KeyboardInterrupt):
        run(base, chats, tmp_path, Diary(cut=5), save_every=2)
    (tmp_path / "checkpoint-4" / trainer.COMPLETE).unlink()
    again = Diary()
    run(base, chats, tmp_path, again, save_every=2, resume=True)
    assert again.calls[0] == ("begin", 2) and again.count == 6


def test_monitor_that_overrides_nothing_changes_nothing(base: Path, chats: Chats, tmp_path: Path) -> None:
    import torch

    watched, alone = run(base, chats, tmp_path / "a", Monitor()), run(base, chats, tmp_path / "b")
    pairs = zip(watched.model.parameters(), alone.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
