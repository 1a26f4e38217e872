"""`alignstack trace ls|show|replay`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say, table

if TYPE_CHECKING:
    from alignstack.core.trace import Trace


@click.group()
def trace() -> None:
    """Requests that went down a stack, and what happened to them.

    \b
    Example:
      alignstack trace ls --limit 5
    """


@trace.command()
@options.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Newest N traces.")
@options.as_json
def ls(limit: int, as_json: bool) -> None:
    """The newest traces.

    \b
    Example:
      alignstack trace ls --limit 5
    """
    from alignstack.cli.events import summary
    from alignstack.store import SqliteTraces
    from alignstack.store.codec import TRACE

    traces = SqliteTraces().recent(limit)
    if as_json:
        emit([TRACE.dump_python(trace, mode="json") for trace in traces])
    else:
        table(("Trace", "Started", "Outcome", "Request"), [summary(trace) for trace in traces])


@trace.command()
@click.argument("trace_id")
@options.as_json
def show(trace_id: str, as_json: bool) -> None:
    """Every event of one trace.

    \b
    Example:
      alignstack trace show 4f1c2d
    """
    from alignstack.store import SqliteTraces

    print_trace(SqliteTraces().get(trace_id), as_json)


@trace.command()
@click.argument("trace_id")
@options.stack
@options.option("--off", multiple=True, metavar="LAYER", help="Replay without this layer; repeatable.")
@options.option("--reference", is_flag=True, help="Replay with the reference checkpoint in place of the weights.")
@options.option("--threshold", "thresholds", multiple=True, metavar="LAYER=X", help="Replay with another threshold.")
@options.as_json
def replay(
    trace_id: str, stack_file: Path | None, off: tuple[str, ...], reference: bool, thresholds: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """The same request again with one thing changed.

    \b
    Example:
      alignstack trace replay 4f1c2d --off classifier
    """
    pass


def print_trace(trace: "Trace", as_json: bool) -> None:
    from alignstack.cli.events import HEADINGS, rows
    from alignstack.store.codec import TRACE

    if as_json:
        emit(TRACE.dump_python(trace, mode="json"))
        return
    table(HEADINGS, rows(trace))
    say(f"trace {trace.id}, stack {trace.stack[:12]} ({trace.stack_source})")
    if trace.censored:
        say("layers after the block were not asked")
