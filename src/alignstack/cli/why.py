"""`alignstack why`."""

import asyncio
from pathlib import Path
from typing import Any

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say


@click.command()
@click.argument("trace_id")
@options.option("--run", type=options.FOLDER, metavar="RUN", help="The audit that the trace or item belongs to.")
@options.option("--label", type=options.LABEL, help="What the request of a trace of `ask` was.  [default: harmful]")
@options.budget
@options.as_json
def why(trace_id: str, run: Path | None, label: Any, budget: float, as_json: bool) -> None:
    """Why one request ended as it did, and the cheapest fix.

    Gives the diagnosis, the replays behind it, and the cheapest fix on each side, training time and run time.
    TRACE_ID is a trace of `ask` or of an audit, or with --run also the id of an item.

    \b
    Example:
      alignstack why 4f1c2d --label harmful
    """
    from rich.console import Console

    from alignstack.loop.why import explain
    from alignstack.report.why import show
    from alignstack.store.clock import SystemClock

    found = asyncio.run(explain(trace_id, run=run, label=label, budget=budget, clock=SystemClock()))
    if as_json:
        emit({**found.item, "notes": found.notes})
        return
    show(found.item, Console())
    for note in found.notes:
        say(note)
