"""How far a run is, on stderr: a bar on a terminal, a line now and then on a pipe. Nothing goes to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING

from alignstack.training.monitor import Monitor, Now

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

QUIET_S = 30.0
"""Seconds between two lines on a pipe; chosen by hand."""


class Progress(Monitor):
    """Steps, loss, tokens a second and the time left."""

    name = "progress"

    def __init__(self, title: str, stream: IO[str] | None = None, tick: Callable[[], float] = time.monotonic) -> None:
        """`title` must be fit for a terminal, as the name of a recipe is. `tick`: monotonic seconds."""
        self.title, self.tick = title, tick
        self.stream = sys.stderr if stream is None else stream
        self.bar: Bar | None = None
        self.loss = self.speed = ""

    def begin(self, now: Now) -> None:
        self.first, self.started = now.step, self.tick()
        self.said, self.last = self.started, -1
        self.tokens = _tokens(now, {})
        if _main(now) and self.stream.isatty():
            self.bar = _bar(self.stream)
            self.task = self.bar.add_task(self.title, total=now.steps, completed=now.step, loss="", speed="")
            self.bar.start()

    def step(self, now: Now) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=now.step)
        elif self.tick() - self.said >= QUIET_S:
            self._say(now)

    def log(self, now: Now, values: Mapping[str, float]) -> None:
        if "loss" in values:
            self.loss = f"loss {values['loss']:.4g}"
        seconds, tokens = self.tick() - self.started, _tokens(now, values) - self.tokens
        if tokens > 0 and seconds > 0:
            self.speed = f"{tokens / seconds:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, loss=self.loss, speed=self.speed)

    def end(self, now: Now) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        elif self.last != now.step:
            self._say(now)

    def _say(self, now: Now) -> None:
        if not _main(now):
            return
        self.said, self.last = self.tick(), now.step
        done, seconds = now.step - self.first, self.said - self.started
        left = seconds * (now.steps - now.step) / done if done else 0.0
        end = f"about {duration(left)} left" if now.step < now.steps and done else duration(seconds)
        parts = [f"{self.title}: {now.step}/{now.steps}", self.loss, self.speed, end]
        print(", ".join(part for part in parts if part), file=self.stream, flush=True)


def hush() -> None:
    """The libraries' own bars off: they say little, and cut ours into pieces."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _main(now: Now) -> bool:
    """Is this the process that writes?"""
    return now.trainer is None or bool(now.trainer.is_world_process_zero())


def _tokens(now: Now, values: Mapping[str, float]) -> float:
    """Tokens seen so far: TRL logs them, the plain trainer counts them."""
    seen = now.trainer.state.num_input_tokens_seen if now.trainer is not None else 0
    return values.get("num_tokens", 0.0) or float(seen or 0)


def _bar(stream: IO[str]) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    facts = (TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[speed]}"))
    # twice a second: drawing takes a core's time away from the steps
    return Bar(
        *columns, TextColumn("left"), TimeRemainingColumn(), *facts, console=Console(file=stream), refresh_per_second=2
    )
