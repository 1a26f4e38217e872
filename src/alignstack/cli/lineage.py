"""`alignstack lineage`."""

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say
from alignstack.cli.errors import GATE_FAILED


@click.command()
@click.argument("checkpoint", type=options.FOLDER)
@options.option(
    "--repeat", type=options.FOLDER, metavar="OUT",
    help="Train the stage again into OUT; exit 1 unless the weights are the same.",
)  # fmt: skip
@options.as_json
def lineage(checkpoint: Path, repeat: Path | None, as_json: bool) -> int:
    """The parents of a checkpoint, oldest first.

    Each is checked against the hash that its child recorded. With --repeat the checkpoint's own stage is trained once
    more from what its folder keeps, and the weights are compared (needs the `train` extra).

    \b
    Example:
      alignstack lineage checkpoints/aligned
    """
    if repeat is not None:
        return again(checkpoint, repeat, as_json)
    from alignstack.training.lineage import chain

    stages = chain(checkpoint)
    if as_json:
        emit([asdict(stage) for stage in stages])
    else:
        from rich.console import Console

        from alignstack.report import lineage as report

        report.show(stages, Console())
    return 0


def again(checkpoint: Path, out: Path, as_json: bool) -> int:
    """Repeat, compare, say."""
    from alignstack.cli.train import LIBRARIES, needs_extra

    needs_extra(*LIBRARIES)
    from alignstack.loop.lineage import repeat

    with contextlib.redirect_stdout(sys.stderr):
        made = repeat(checkpoint, out)
    if as_json:
        emit({
            "same": made.same, "weights": made.again.weights, "was": made.first.weights, "out": str(made.out),
            "differs": made.differs,
        })  # fmt: skip
        return 0 if made.same else GATE_FAILED
    if made.same:
        click.echo(f"the same weights: {made.again.weights}")
    else:
        click.echo(f"other weights: {made.again.weights}, not {made.first.weights}")
    for line in made.differs:
        say(f"differs: {line}")
    if not (made.same or made.differs):
        say("nothing that is recorded differs: training this stage is not repeatable on this machine")
    return 0 if made.same else GATE_FAILED
