"""`alignstack classify`."""

import asyncio
import json
import sys
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit


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
    from alignstack.engine.config import load_stack
    from alignstack.loop.classify import parse, scorer, scores
    from alignstack.store.clock import SystemClock

    async def run() -> None:
        rows = []
        async for row in scores(placed, texts, SystemClock()):
            rows.append(row)
            if not as_json:
                click.echo(json.dumps(row, ensure_ascii=False))
        if as_json:
            emit(rows)

    placed = scorer(load_stack(stack_file), layer)
    texts = parse(sys.stdin.buffer.read())
    asyncio.run(run())
