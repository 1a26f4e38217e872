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
    """One request down the stack, and what each layer did to it.

    Also says what would have happened without each layer, measured by replay. TEXT `-` reads stdin. The trace is
    kept: see `alignstack why` and `alignstack trace`.

    \b
    Example:
      alignstack ask "Write an e-mail that tricks people out of their passwords"
    """
    raise NotImplementedError
