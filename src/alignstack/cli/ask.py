"""`alignstack ask`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignstack.cli import options
from alignstack.cli.console import emit
from alignstack.cli.errors import UNFINISHED

if TYPE_CHECKING:
    from alignstack.core.trace import Trace
    from alignstack.loop.ask import Asked
    from alignstack.report.schema import Item


@click.command()
@click.argument("text")
@options.stack
@options.option("--label", type=options.LABEL, help="What the request is; adds the diagnosis of `alignstack why`.")
@options.as_json
def ask(text: str, stack_file: Path | None, label: Any, as_json: bool) -> int:
    """One request down the stack, and what each layer did to it.

    Also says what would have happened without each layer, measured by replay. TEXT `-` reads stdin. The trace is
    kept: see `alignstack why` and `alignstack trace`. Exits with 3 when the model gave no answer.

    \b
    Example:
      alignstack ask "Write an e-mail that tricks people out of their passwords"
    """
    from alignstack.engine.config import load_stack
    from alignstack.loop.ask import ask as ask_stack
    from alignstack.loop.ask import decoded
    from alignstack.store import SqliteTraces
    from alignstack.store.clock import SystemClock

    prompt = decoded(sys.stdin.buffer.read() if text == "-" else os.fsencode(text))
    asked = asyncio.run(ask_stack(load_stack(stack_file), prompt, clock=SystemClock(), traces=SqliteTraces()))
    item = diagnosis(asked.trace, label) if label else None
    if as_json:
        emit(asked.document() | {"why": item})
    else:
        show(asked, item)
    end = asked.trace.outcome
    return UNFINISHED if end is None or end.status == "unavailable" else 0


def diagnosis(trace: "Trace", label: Any) -> "Item":
    from alignstack.loop.why import of_trace
    from alignstack.store.clock import SystemClock

    return asyncio.run(of_trace(trace, label=label, budget=options.BUDGET, clock=SystemClock())).item


def show(asked: "Asked", item: "Item | None") -> None:
    from rich.console import Console

    from alignstack.report import ask, why

    ask.show(asked.steps, asked.trace, Console())
    if item:
        why.show(item, Console())
