"""Where output goes: one document to stdout, everything that is said on the way to stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

Progress = Callable[[int, int], None]
"""Called with items finished and items in all."""


def emit(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Text from a model, a file or a user, line by line, with everything that could steer a terminal as an escape."""
    from alignstack.report.escape import visible

    return "\n".join(visible(line) for line in text.split("\n"))


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned columns on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(grid)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar with the time left on stderr; on a pipe one line for each tenth."""
    if not sys.stderr.isatty():
        yield _tenths(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tenths(title: str) -> Progress:
    started, first, said = time.monotonic(), 0, -1

    def update(done: int, total: int) -> None:
        nonlocal first, said
        tenth = 10 * done // max(total, 1)
        if said < 0:
            first = done  # finished before this process began
        if tenth > said:
            said = tenth
            seconds = (time.monotonic() - started) * (total - done) / max(done - first, 1)
            left = f", about {seconds:.0f} s left" if first < done < total else ""
            say(f"{title}: {done}/{total}{left}")

    return update
