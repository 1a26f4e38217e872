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
    """One request down the built-in stack, then an audit of it on real prompts, with attribution.

    Needs no key, no GPU and no network. Writes report.json and a one-file report.html.

    \b
    Example:
      alignstack demo --out /tmp/demo
    """
    raise NotImplementedError
