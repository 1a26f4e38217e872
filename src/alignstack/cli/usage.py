"""`alignstack usage`."""

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from alignstack.cli import options
from alignstack.cli.console import emit, table
from alignstack.cli.when import when

if TYPE_CHECKING:
    from alignstack.core.usage import Used
    from alignstack.store.entries import Group

HEADINGS = ("Requests", "Delivered", "Refused", "Blocked", "Failed", "Input tokens", "Output tokens", "US$", "People")


@click.command()
@options.option(
    "--since", type=when, default="24h", show_default=True, metavar="WHEN", help="30m, 24h, 7d, or a date or time."
)
@options.option("--key", metavar="ID", help="Of one key.")
@options.option(
    "--by",
    type=click.Choice(["key", "day"]),
    default="key",
    show_default=True,
    help="One line for each key, or day of UTC.",
)
@options.option("--ledger", metavar="URL", help="postgresql://… or sqlite://PATH; this machine's own store otherwise.")
@options.as_json
def usage(since: float, key: str | None, by: "Group", ledger: str | None, as_json: bool) -> None:
    """What the keys of the gateway used, from its ledger.

    Refused: the model itself declined. Blocked: a layer did it. Failed: no answer, the client left, the request is
    still under way, or the gateway was killed. Tokens and money are those of requests that have ended.

    \b
    Example:
      alignstack usage --since 7d --by day
    """
    until = time.time()
    lines = asyncio.run(read(ledger, since, until, key, by))
    if as_json:
        emit({"since": since, "until": until, "by": by, "usage": [document(line, by) for line in lines]})
    else:
        table((by.capitalize(), *HEADINGS), [row(line) for line in lines])


async def read(url: str | None, since: float, until: float, key: str | None, by: "Group") -> "list[Used]":
    from alignstack.store.open_ledger import open_ledger

    async with open_ledger(url) as ledger:
        return await ledger.usage(since, until, key, by)


def document(line: "Used", by: "Group") -> dict[str, Any]:
    values = asdict(line)
    return {by: values.pop("key"), **values}


def row(line: "Used") -> tuple[str, ...]:
    name, *counts = asdict(line).values()
    return (name, *(f"{count:,.4f}" if isinstance(count, float) else f"{count:,}" for count in counts))
