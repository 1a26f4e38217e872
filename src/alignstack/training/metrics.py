"""What a run said on its way: `metrics.jsonl` in its folder, and trackers where a recipe asks for them.

A line is `{"step", "time", "values": {name: number}}`; the trainer's last words have `summary` in place of `values`, an
evaluation `evaluation` with `n` and `interval`. Of several runs in one stage the lines of those in a folder of their
own carry its name as `part`. After a resume the lines of the steps that are done again are gone.
"""

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignstack.core.errors import ConfigError, Problem
from alignstack.training.monitor import Monitor, Now

FILE = "metrics.jsonl"
TRACK = "track"
"""Folder of the trackers' files, in a run's work folder and then in the checkpoint."""
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Tracker → the module, and package, that it needs."""

_ours: dict[str, str] = {}
"""What `ready` has put into the environment, which the next run of this process may change."""


class Metrics(Monitor):
    """Writes down every log. Lines reach the system when they are made and the disk with each midway checkpoint."""

    name = "metrics"

    def __init__(self, work: Path, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self.work, self.file, self.clock = work, work / FILE, clock
        self.part: str | None = None
        self.writes = True

    def begin(self, now: Now) -> None:
        self.writes = now.trainer is None or bool(now.trainer.is_world_process_zero())
        self.part = _part(now, self.work)
        if self.writes:
            kept = [line for line in read(self.file) if line.get("part") != self.part or line["step"] <= now.step]
            rewrite(self.file, kept)

    def log(self, now: Now, values: Mapping[str, float]) -> None:
        kind = "summary" if "train_loss" in values else "values"
        self.write(now.step, {kind: {name: value for name, value in values.items() if math.isfinite(value)}})
        if odd := {name: str(value) for name, value in values.items() if not math.isfinite(value)}:
            self.write(now.step, {"not_finite": odd})  # JSON has no word for them

    def end(self, now: Now) -> None:
        self._settle()

    def state(self) -> dict[str, Any]:
        self._settle()
        return {}

    def write(self, step: int, facts: Mapping[str, Any]) -> None:
        """Append a line; nothing in processes that do not write."""
        if not self.writes:
            return
        line = {"step": step, "time": round(self.clock(), 3)} | ({"part": self.part} if self.part else {}) | {**facts}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def keep(self, step: int) -> None:
        """Mark the evaluation of the weights that are kept."""
        if not self.writes:
            return
        lines = [{key: value for key, value in line.items() if key != "kept"} for line in read(self.file)]
        own = [line.get("part") == self.part and line["step"] == step for line in lines]
        chosen = [n for n, line in enumerate(lines) if own[n] and "evaluation" in line]
        for n in chosen[-1:]:
            lines[n]["kept"] = True
        rewrite(self.file, lines)

    def _settle(self) -> None:
        if self.writes and self.file.exists():
            with self.file.open("rb") as file:
                os.fsync(file.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """The lines; nothing when there is no file. A last line that a kill cut off is left out."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def rewrite(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """In one go: whoever is killed leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, file)


def _part(now: Now, work: Path) -> str | None:
    """The run's own folder, where it is not that of the stage."""
    place = Path(now.trainer.args.output_dir) if now.trainer is not None else work
    if place.resolve() == work.resolve():
        return None
    return os.path.relpath(place.resolve(), work.resolve())


def ready(track: Sequence[str], work: Path, recipe: str) -> None:
    """Have the trackers keep their files in the work folder and off the network, unless the user's own environment
    says otherwise. Raises ConfigError that names every package that is missing; `recipe` is for its message."""
    missing = [name for name in track if importlib.util.find_spec(TRACKERS[name]) is None]
    if missing:
        raise ConfigError(
            [
                Problem(where=f"{recipe}: track", what=f"{name!r} is not installed; `pip install {TRACKERS[name]}`")
                for name in missing
            ]
        )
    for name, value in settings(work).items():
        if any(name.startswith(tracker.upper()) for tracker in track) and os.environ.get(name) == _ours.get(name):
            os.environ[name] = _ours[name] = value
    if track:
        (work / TRACK).mkdir(parents=True, exist_ok=True)


def settings(work: Path) -> dict[str, str]:
    """Environment variables of the trackers."""
    place = (work / TRACK).resolve()
    return {
        "TENSORBOARD_LOGGING_DIR": str(place / "tensorboard"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(place),
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",  # its folder of files is no longer kept up
    }
