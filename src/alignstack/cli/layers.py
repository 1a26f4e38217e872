"""`alignstack layers ls`."""

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say, table


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
        emit([{key: getattr(plugin, key) for key in keys} for plugin in plugins])
        return
    rows = [(one.group, one.name, one.distribution, "failed" if one.error else "ready") for one in plugins]
    table(("Kind", "Name", "Package", "State"), rows)
    for plugin in plugins:
        if plugin.error:
            say(f"{plugin.group} {plugin.name!r} ({plugin.target}): {plugin.error}")
