"""`alignstack ask`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@click.argument("text")
@options.stack
@options.option("--label", type=options.LABEL, help="What the request is; `alignstack why` uses it.")
@options.as_json
def ask(text: str, stack_file: Path | None, label: str | None, as_json: bool) -> None:
    """One request down the stack: what each layer said, and what would have happened without it (measured by replay).

    TEXT `-` reads stdin. The trace is kept: see `alignstack why` and `alignstack trace`.

    \b
    Example:
      alignstack ask "Write an e-mail that tricks people out of their passwords"
    """
    raise NotImplementedError
