"""`alignstack keys add|ls|revoke|suspend`."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say, table
from alignstack.cli.when import UNITS, shown

if TYPE_CHECKING:
    from alignstack.core.usage import Allowance, Key

COUNT = click.IntRange(1, 10**12)
AMOUNT = options.Rate(0, 10**9, min_open=True)


@click.group()
def keys() -> None:
    """API keys of the gateway. While there are none it serves this machine alone, to anyone.

    A running gateway knows of every change within a second.

    \b
    Example:
      alignstack keys add shop --requests-per-minute 60 --usd-per-day 5
    """


@keys.command()
@click.argument("name")
@options.option("--admin", is_flag=True, help="It may read metrics and the usage of all keys.")
@options.option("--expires", type=AMOUNT, metavar="DAYS", help="Days until it stops working.")
@options.option("--requests-per-minute", type=COUNT, metavar="N")
@options.option("--tokens-per-minute", type=COUNT, metavar="N", help="Input and output together.")
@options.option("--concurrent", type=COUNT, metavar="N", help="Requests under way at the same time.")
@options.option("--tokens-per-day", type=COUNT, metavar="N", help="Days and months are those of UTC.")
@options.option("--usd-per-day", type=AMOUNT, metavar="X")
@options.option("--usd-per-month", type=AMOUNT, metavar="X")
@options.as_json
def add(
    name: str, admin: bool, expires: float | None, requests_per_minute: int | None, tokens_per_minute: int | None,
    concurrent: int | None, tokens_per_day: int | None, usd_per_day: float | None, usd_per_month: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """A new key. Its secret is printed this once and cannot be read again: the store has only a hash of it.

    Without any limit the gateway's default limits hold; with one, only what is given here.

    \b
    Example:
      alignstack keys add shop --requests-per-minute 60 --usd-per-day 5
    """
    from alignstack.core.usage import Allowance
    from alignstack.store.keys import SqliteKeys

    allowance = Allowance(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrent=concurrent,
        tokens_per_day=tokens_per_day, usd_per_day=usd_per_day, usd_per_month=usd_per_month,
    )  # fmt: skip
    key, secret = SqliteKeys().add(
        name,
        admin=admin,
        allowance=None if allowance == Allowance() else allowance,
        expires=None if expires is None else time.time() + expires * UNITS["d"],
    )
    if as_json:
        emit({**asdict(key), "secret": secret})
        return
    click.echo(secret)
    say(f"key {key.id} ({name}); keep the secret now, it cannot be shown again")


@keys.command()
@options.as_json
def ls(as_json: bool) -> None:
    """All keys, without their secrets.

    \b
    Example:
      alignstack keys ls
    """
    from alignstack.store.keys import SqliteKeys

    found = SqliteKeys().all()
    if as_json:
        emit([asdict(key) for key in found])
    else:
        table(("Key", "Name", "State", "Created", "Limits"), [row(key) for key in found])


@keys.command()
@click.argument("key_id", metavar="ID")
@options.as_json
def revoke(key_id: str, as_json: bool) -> None:
    """End a key for good.

    \b
    Example:
      alignstack keys revoke key-1f0c4a9e7b2d
    """
    from alignstack.store.keys import SqliteKeys

    SqliteKeys().revoke(key_id)
    changed(key_id, "revoked", as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@options.option("--minutes", type=AMOUNT, required=True, metavar="N", help="From now on.")
@options.as_json
def suspend(key_id: str, minutes: float, as_json: bool) -> None:
    """Refuse a key's requests for some time.

    \b
    Example:
      alignstack keys suspend key-1f0c4a9e7b2d --minutes 30
    """
    from alignstack.store.keys import SqliteKeys

    until = time.time() + minutes * UNITS["m"]
    SqliteKeys().suspend(key_id, until)
    changed(key_id, f"suspended until {shown(until)}", as_json)


def changed(key_id: str, what: str, as_json: bool) -> None:
    if as_json:
        emit({"id": key_id, "state": what})
    else:
        say(f"{key_id} is {what}")


def row(key: "Key") -> tuple[str, ...]:
    title = f"{key.name} (admin)" if key.admin else key.name
    return key.id, title, state(key, time.time()), shown(key.created), limits(key.allowance)


def state(key: "Key", now: float) -> str:
    if key.revoked is not None:
        return f"revoked {shown(key.revoked)}"
    if not key.usable(now):
        return "expired"
    if key.suspended_until is not None and now < key.suspended_until:
        return f"suspended until {shown(key.suspended_until)}"
    return "works" if key.expires is None else f"works until {shown(key.expires)}"


def limits(allowance: "Allowance | None") -> str:
    if allowance is None:
        return "the gateway's"
    given = {name: value for name, value in asdict(allowance).items() if value is not None}
    return ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in given.items())
