"""`alignstack demo`."""

import asyncio
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, progress, say


@click.command()
@options.option(
    "--out", type=options.FOLDER, default="alignstack-demo", show_default=True, metavar="DIR",
    help="Folder for the audit and the report.",
)  # fmt: skip
@options.limit
@options.as_json
def demo(out: Path, limit: int | None, as_json: bool) -> None:
    """One request and an audit of the built-in stack, explained.

    The request goes down the stack layer by layer; the audit runs on real prompts, with attacks, and attribution says
    what each layer is worth and where each failure came from. Needs no key, no GPU and no network. Writes report.json
    and a one-file report.html.

    \b
    Example:
      alignstack demo --out /tmp/demo
    """
    from rich.console import Console

    from alignstack.engine.config import load_stack
    from alignstack.loop import outputs
    from alignstack.loop.ask import ask
    from alignstack.loop.demo import measure
    from alignstack.redteam.suites import PHISHING
    from alignstack.report import ask as table
    from alignstack.report import terminal
    from alignstack.store import SqliteTraces
    from alignstack.store.clock import SystemClock

    stack, clock = load_stack(None), SystemClock()
    asked = asyncio.run(ask(stack, PHISHING, clock=clock, traces=SqliteTraces()))
    if not as_json:
        click.echo(f"One request down the stack: “{PHISHING}”")
        table.show(asked.steps, asked.trace, Console())
    with progress("audit") as update:
        run = asyncio.run(measure(stack, out, limit=limit, clock=clock, progress=update))
    made = outputs.report(run, budget=options.BUDGET)
    page = out / "report.html"
    files = {"json": out / outputs.REPORT, "html": page}
    outputs.write(made, files, steps=table.rows(asked.steps), request=PHISHING)
    if as_json:
        emit(made)
    else:
        terminal.show(made, Console())
    say(f"the whole report: {page.resolve()}  (numbers: {out / outputs.REPORT}, run: {run.folder})")
