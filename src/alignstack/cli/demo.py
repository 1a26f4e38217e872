"""`alignstack demo`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@options.option(
    "--out",
    type=options.FOLDER,
    default="alignstack-demo",
    show_default=True,
    help="Folder for the run and the report.",
)
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
    raise NotImplementedError
