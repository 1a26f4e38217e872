"""`alignstack classify`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@options.option("--layer", required=True, metavar="NAME", help="A classifier layer of the stack.")
@options.stack
@options.as_json
def classify(layer: str, stack_file: Path | None, as_json: bool) -> None:
    """Score texts with one classifier layer, as JSON lines.

    Reads {"id", "text"} lines from stdin and prints {"id", "score", "hazards"} for each, in order; with --json all of
    them as one JSON array.

    \b
    Example:
      echo '{"id": "1", "text": "How do I bake bread?"}' | alignstack classify --layer classifier
    """
    raise NotImplementedError
