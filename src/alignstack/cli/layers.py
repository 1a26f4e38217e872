"""`alignstack layers ls`."""

import click

from alignstack.cli import options
from alignstack.cli.console import emit


@click.group()
def layers() -> None:
    """What stacks can be made of.

    \b
    Example:
      alignstack layers ls
    """


@layers.command()
@options.as_json
def ls(as_json: bool) -> None:
    """Every installed layer, model, judge and attack, plugins included; also those that fail to load.

    \b
    Example:
      alignstack layers ls --json
    """
    from alignstack.engine import registry

    emit({group: registry.available(group) for group in ("layers", "models", "judges", "attacks")})
