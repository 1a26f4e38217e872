"""`alignstack layers ls`."""

import sys
from typing import TYPE_CHECKING

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say, table

if TYPE_CHECKING:
    from alignstack.engine.registry import Plugin


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
    from alignstack.engine.registry import GROUPS, available

    plugins = [plugin for group in GROUPS for plugin in available(group).values()]
    if as_json:
        keys = ("group", "name", "target", "distribution", "error")
        emit([{key: getattr(plugin, key) for key in keys} | {"about": about(plugin)} for plugin in plugins])
        return
    rows = [(one.group.removesuffix("s"), one.name, one.distribution, about(one)) for one in plugins]
    table(("Kind", "Name", "Package", "What it is"), rows)
    for plugin in plugins:
        if plugin.error:
            say(f"{plugin.group} {plugin.name!r} ({plugin.target}): {plugin.error}")


def about(plugin: "Plugin") -> str:
    """The first line of its module."""
    module = sys.modules.get(getattr(plugin.loaded, "__module__", ""))
    return "does not load" if plugin.error else ((module and module.__doc__) or "").partition("\n")[0]
