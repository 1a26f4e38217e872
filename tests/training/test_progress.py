import io
from types import SimpleNamespace
from typing import Any

import pytest

from alignstack.training.monitor import Now
from alignstack.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """Moves when told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def now(step: int, main: bool = True, seen: int = 0) -> Now:
    trainer: Any = SimpleNamespace(
        is_world_process_zero=lambda: main, state=SimpleNamespace(num_input_tokens_seen=seen)
    )
    return Now(step=step, steps=10, epoch=0.0, trainer=trainer)


def run(stream: io.StringIO, seconds: float, start: int = 0, main: bool = True) -> str:
    """Ten steps, each so many seconds long and of a hundred tokens."""
    time = Time()
    watching = Progress("child", stream, time)
    watching.begin(now(start, main))
    for step in range(start + 1, 11):
        time.seconds += seconds
        watching.log(now(step, main), {"loss": 1 / step, "num_tokens": 100.0 * (step - start)})
        watching.step(now(step, main))
    watching.end(now(10, main))
    return stream.getvalue()


def test_pipe_gets_a_line_every_half_minute_and_one_at_the_end() -> None:
    assert run(io.StringIO(), 12.0).splitlines() == [
        "child: 3/10, loss 0.3333, 8 tokens/s, about 84 s left",
        "child: 6/10, loss 0.1667, 8 tokens/s, about 48 s left",
        "child: 9/10, loss 0.1111, 8 tokens/s, about 12 s left",
        "child: 10/10, loss 0.1, 8 tokens/s, 2 min",
    ]


def test_short_run_on_a_pipe_gets_one_line() -> None:
    assert run(io.StringIO(), 0.1).splitlines() == ["child: 10/10, loss 0.1, 1,000 tokens/s, 1 s"]


def test_time_left_after_a_resume_counts_this_processes_steps_alone() -> None:
    assert run(io.StringIO(), 30.0, start=8).splitlines()[0] == "child: 9/10, loss 0.1111, 3 tokens/s, about 30 s left"


def test_terminal_gets_a_bar() -> None:
    shown = run(Terminal(), 1.0)
    assert "child" in shown and "10/10" in shown and "loss 0.1" in shown and "tokens/s" in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_other_processes_say_nothing(stream: io.StringIO) -> None:
    assert run(stream, 60.0, main=False) == ""


def test_tokens_that_the_trainer_counts_are_used_where_none_are_logged() -> None:
    stream, time = io.StringIO(), Time()
    watching = Progress("child", stream, time)
    watching.begin(now(0, seen=500))
    time.seconds = 10.0
    watching.log(now(1, seen=1500), {})
    watching.end(now(1))
    assert "100 tokens/s" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
