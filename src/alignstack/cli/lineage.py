"""`alignstack lineage`."""

from dataclasses import asdict
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, table


@click.command()
@click.argument("checkpoint", type=options.FOLDER)
@options.as_json
def lineage(checkpoint: Path, as_json: bool) -> None:
    """The parents of a checkpoint, oldest first.

    Each is checked against the hash that its child recorded.

    \b
    Example:
      alignstack lineage checkpoints/aligned
    """
    from alignstack.training.lineage import chain

    stages = chain(checkpoint)
    if as_json:
        emit([asdict(stage) for stage in stages])
        return
    rows = [
        (stage.stage, stage.method, stage.weights[:12], f"{stage.tokens:,}", ", ".join(stage.data)) for stage in stages
    ]
    table(("Stage", "Method", "Weights", "Tokens", "Data"), rows)
