"""`alignstack audit`."""

import asyncio
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, progress, say


@click.command()
@options.stack
@options.option(
    "--suite", "suites", type=options.FILE, multiple=True, required=True, metavar="FILE",
    help="JSONL suite (.gz and .zst too); repeatable.",
)  # fmt: skip
@options.option("--attacks", multiple=True, metavar="A,B…", help="Attacks on harmful prompts; commas, or repeated.")
@options.limit
@options.option("--draws", type=click.IntRange(1), default=1, show_default=True, help="Answers drawn per prompt.")
@options.seed
@options.option("--out", type=options.FOLDER, required=True, metavar="RUN", help="Folder of the run.")
@options.option("--resume", is_flag=True, help="Go on with a run that was interrupted.")
@options.option("--concurrency", type=click.IntRange(1), metavar="N", help="Items under way at once.")
@options.as_json
def audit(
    stack_file: Path | None, suites: tuple[Path, ...], attacks: tuple[str, ...], limit: int | None, draws: int,
    seed: int, out: Path, resume: bool, concurrency: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask every layer about every prompt of the suites.

    Also after another layer has blocked, and with every subset of what changes the prompt, so that attribution needs
    no further run. Killed and resumed, it loses no finished item. Writes report.json into the folder of the run.

    \b
    Example:
      alignstack audit --stack stack.yaml --suite suite.jsonl --attacks base64,role_play --out run
    """
    from alignstack.engine.config import load_stack
    from alignstack.loop import outputs
    from alignstack.redteam import suites as files
    from alignstack.redteam.audit import audit as run_audit
    from alignstack.store.clock import SystemClock

    stack = load_stack(stack_file)
    items = files.read_all(suites)
    with progress("audit") as update:
        run = asyncio.run(
            run_audit(
                stack, files.limit(items, limit) if limit else items, out=out, clock=SystemClock(),
                attacks=split(attacks), draws=draws, seed=seed, suites=[files.row(path) for path in suites],
                resume=resume, concurrency=concurrency, progress=update,
            )
        )  # fmt: skip
    made = outputs.report(run, budget=options.BUDGET)
    outputs.write(made, {"json": out / outputs.REPORT})
    if as_json:
        emit(made)
    else:
        from alignstack.report import sentences

        click.echo(sentences.headline(made))
        say(f"run {run.manifest.run[:12]} in {out}; see `alignstack attribute {out}`")


def split(names: tuple[str, ...]) -> list[str]:
    """`("a,b", "c")` → `["a", "b", "c"]`, each once."""
    return list(dict.fromkeys(name.strip() for joined in names for name in joined.split(",") if name.strip()))
