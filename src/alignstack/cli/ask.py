"""`alignstack ask`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from alignstack.cli import options
from alignstack.cli.console import emit


@click.command()
@click.argument("text")
@options.stack
@options.option("--label", type=options.LABEL, help="What the request is; adds the diagnosis of `alignstack why`.")
@options.as_json
def ask(text: str, stack_file: Path | None, label: Any, as_json: bool) -> None:
    """One request down the stack, and what each layer did to it.

    Also says what would have happened without each layer, measured by replay. TEXT `-` reads stdin. The trace is
    kept: see `alignstack why` and `alignstack trace`.

    \b
    Example:
      alignstack ask "Write an e-mail that tricks people out of their passwords"
    """
    from rich.console import Console

    from alignstack.engine.config import load_stack
    from alignstack.loop.ask import ask as ask_stack
    from alignstack.loop.ask import decoded
    from alignstack.loop.why import of_trace
    from alignstack.report import ask as view
    from alignstack.report import why
    from alignstack.store import SqliteTraces
    from alignstack.store.clock import SystemClock

    prompt = decoded(sys.stdin.buffer.read() if text == "-" else os.fsencode(text))
    clock = SystemClock()
    asked = asyncio.run(ask_stack(load_stack(stack_file), prompt, clock=clock, traces=SqliteTraces()))
    found = asyncio.run(of_trace(asked.trace, label=label, budget=options.BUDGET, clock=clock)) if label else None
    if as_json:
        emit(asked.document() | {"why": found.item if found else None})
        return
    view.show(asked.steps, asked.trace, Console())
    if found:
        why.show(found.item, Console())
