"""`alignstack why`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@click.argument("trace_id")
@options.option("--run", type=options.FOLDER, metavar="RUN", help="The audit run that the trace or item belongs to.")
@options.option("--label", type=options.LABEL, help="What the request was, for traces of `ask`.")
@options.as_json
def why(trace_id: str, run: Path | None, label: str | None, as_json: bool) -> None:
    """Why one request ended as it did, and the cheapest fix.

    Gives the diagnosis, the replays behind it, and the cheapest fix on each side, training time and run time.
    TRACE_ID is a trace of `ask`, or with --run a trace or item of an audit.

    \b
    Example:
      alignstack why 4f1c2d --label harmful
    """
    raise NotImplementedError
