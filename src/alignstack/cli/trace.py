"""`alignstack trace ls|show|replay`."""

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say, table
from alignstack.cli.when import when
from alignstack.core.errors import DataError, NotFound

if TYPE_CHECKING:
    from alignstack.core.trace import Trace

ENDINGS = ("delivered", "blocked", "cut", "unavailable", "abandoned")
"""`OutcomeEvent.status`."""


@click.group()
def trace() -> None:
    """Requests that went down a stack, and what happened to them.

    \b
    Example:
      alignstack trace ls --limit 5
    """


@trace.command()
@options.option("--since", type=when, metavar="WHEN", help="30m, 24h, 7d, or a date or time.")
@options.option("--key", metavar="ID", help="Whose requests.")
@options.option("--status", type=click.Choice(ENDINGS), help="How they ended.")
@options.option("--layer", metavar="LAYER", help="Blocked or cut by this layer.")
@options.option("--hazard", metavar="HAZARD", help="Blocked or cut for this hazard.")
@options.option("--text", default="", help="Occurs in what was asked, answered or delivered.")
@options.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Newest N traces.")
@options.as_json
def ls(
    since: float | None, key: str | None, status: str | None, layer: str | None, hazard: str | None, text: str,
    limit: int, as_json: bool,
) -> None:  # fmt: skip
    """The newest traces that have all that is asked for.

    \b
    Example:
      alignstack trace ls --since 24h --status blocked --layer classifier
    """
    from alignstack.cli.events import summary
    from alignstack.store import SqliteTraces
    from alignstack.store.codec import TRACE

    start = -math.inf if since is None else since
    traces = SqliteTraces().search(
        since=start, caller=key, status=status, layer=layer, hazard=hazard, text=text, limit=limit
    )
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
    print_trace(kept(trace_id), as_json)


@trace.command()
@click.argument("trace_id")
@options.stack
@options.option("--off", multiple=True, metavar="LAYER", help="Without this layer; repeatable.")
@options.option("--shadow", multiple=True, metavar="LAYER", help="With this layer in shadow; repeatable.")
@options.option("--again", multiple=True, metavar="LAYER", help="Ask this layer again, say after a fault; repeatable.")
@options.option("--reference", is_flag=True, help="With the reference checkpoint in place of the weights.")
@options.option(
    "--threshold", "thresholds", multiple=True, metavar="LAYER=X", help="With another threshold; repeatable."
)
@options.as_json
def replay(
    trace_id: str, stack_file: Path | None, off: tuple[str, ...], shadow: tuple[str, ...], again: tuple[str, ...],
    reference: bool, thresholds: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """The same request again with one thing changed.

    Only what the change reaches is asked again. The stack is that of the trace unless --stack names another.

    \b
    Example:
      alignstack trace replay 4f1c2d --off classifier
    """
    from alignstack.engine.config import load_stack
    from alignstack.engine.replay import replay as run_again
    from alignstack.store.clock import SystemClock

    before = kept(trace_id)
    after = asyncio.run(
        run_again(
            before, load_stack(stack_file or before.stack_source), off=frozenset(off), shadow=frozenset(shadow),
            again=frozenset(again), reference=reference, thresholds=dict(map(moved, thresholds)), clock=SystemClock(),
        )
    )  # fmt: skip
    print_trace(after, as_json)


def kept(trace_id: str) -> "Trace":
    """Raises NotFound; DataError for an item of an audit, where every layer was asked and nothing took one course."""
    from alignstack.redteam.audit import find_record
    from alignstack.store import SqliteTraces

    try:
        return SqliteTraces().get(trace_id)
    except NotFound as unknown:
        try:
            run, _ = find_record(trace_id)
        except NotFound:
            raise unknown from None
    what = f"{trace_id!r} is an item of the audit in {str(run.folder)!r}"
    raise DataError(f"{what}; `alignstack why {trace_id}` explains it")


def moved(text: str) -> tuple[str, float]:
    """`LAYER=X` as a name and a number. Raises a usage error."""
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise click.BadParameter(f"{text!r} is not LAYER=X with a number X", param_hint="--threshold")
    return name, number


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
