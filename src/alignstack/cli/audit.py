"""`alignstack audit`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@options.stack
@options.option(
    "--suite",
    "suites",
    type=options.FILE,
    multiple=True,
    required=True,
    metavar="FILE",
    help="JSONL suite (.gz, .zst too); repeatable.",
)
@options.option(
    "--attacks", multiple=True, metavar="A,B…", help="Attacks to apply to harmful prompts, commas or repeated."
)
@options.limit
@options.option("--draws", type=click.IntRange(1), default=1, show_default=True, help="Answers drawn per prompt.")
@options.seed
@options.option("--out", type=options.FOLDER, required=True, metavar="RUN", help="Folder of the run.")
@options.option("--resume", is_flag=True, help="Go on with a run that was interrupted.")
@options.option(
    "--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Requests in flight at once."
)
@options.as_json
def audit(
    stack_file: Path | None, suites: tuple[Path, ...], attacks: tuple[str, ...], limit: int | None, draws: int,
    seed: int, out: Path, resume: bool, concurrency: int, as_json: bool,
) -> None:  # fmt: skip
    """Ask every layer about every prompt of the suites.

    Also after another layer has blocked, and with every subset of what changes the prompt, so that attribution needs
    no further run. Killed and resumed, it loses no finished item.

    \b
    Example:
      alignstack audit --stack stack.yaml --suite suite.jsonl --attacks base64,role_play --out run
    """
    raise NotImplementedError
