"""`alignstack usage`."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from alignstack.core.usage import Admitted, Allowance, Settled
from alignstack.store.open_ledger import open_ledger
from tests.cli.conftest import Cli

NOW = time.time()


def use(url: str | None = None) -> None:
    """Two requests now and one nine days ago."""

    async def write() -> None:
        async with open_ledger(url) as ledger:
            for name, key, at in (("a", "key-1", NOW - 5), ("b", "key-2", NOW - 5), ("c", "key-1", NOW - 9 * 86_400)):
                await ledger.admit(Admitted(id=name, at=at, key=key, tokens=9), Allowance())
                await ledger.settle(Settled(id=name, at=at, status="delivered", output_tokens=1234, usd=0.5))

    asyncio.run(write())


def test_every_key_has_a_line(cli: Cli) -> None:
    use()
    usage = cli("usage", "--json").document
    assert [(line["key"], line["requests"], line["usd"]) for line in usage["usage"]] == [
        ("key-1", 1, 0.5),
        ("key-2", 1, 0.5),
    ]
    table = cli("usage").out
    assert "Requests" in table and "1,234" in table and "0.5000" in table


def test_days_are_those_of_utc(cli: Cli) -> None:
    use()
    days = cli("usage", "--since", "30d", "--by", "day", "--key", "key-1", "--json").document["usage"]
    assert [day["day"] for day in days] == [
        datetime.fromtimestamp(at, UTC).date().isoformat() for at in (NOW - 9 * 86_400, NOW - 5)
    ]


@pytest.mark.parametrize(
    ("since", "requests"), [("10m", 2), ("24h", 2), ("10d", 3), ("2020-01-01", 3), ("2020-01-01T10:00:00Z", 3)]
)
def test_time_is_typed_as_people_think_of_it(cli: Cli, since: str, requests: int) -> None:
    use()
    usage = cli("usage", "--json", ALIGNSTACK_SINCE=since).document["usage"]
    assert sum(line["requests"] for line in usage) == requests


def test_ledger_may_be_elsewhere(cli: Cli, tmp_path: Path) -> None:
    use(f"sqlite://{tmp_path}/ledger.db")
    assert cli("usage", "--json").document["usage"] == []
    assert len(cli("usage", "--ledger", f"sqlite://{tmp_path}/ledger.db", "--json").document["usage"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("--since", "yesterday"), 2, "24h"),
        (("--since", "99999999d"), 2, "24h"),
        (("--ledger", "mysql://x"), 2, "postgresql://"),
        (("--ledger", "postgresql://me:open-sesame@127.0.0.1:9/db"), 3, "127.0.0.1:9/db"),
    ],
)
def test_what_cannot_be_read_is_explained(cli: Cli, arguments: tuple[str, ...], code: int, hint: str) -> None:
    ended = cli("usage", *arguments)
    assert ended.code == code and hint in ended.err and "sesame" not in ended.err
