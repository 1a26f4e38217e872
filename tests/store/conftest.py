"""One suite for both ledgers: PostgreSQL takes part where it is installed."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from alignstack.store.ledger import SqliteLedger
from alignstack.store.ledger_postgres import PostgresLedger
from alignstack.store.writer import Writer
from tests.store import postgres

PROGRAMS = postgres.programs()
LEDGERS = ("sqlite", "postgres") if PROGRAMS else ("sqlite",)
AnyLedger = SqliteLedger | PostgresLedger


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    assert PROGRAMS is not None
    with postgres.running(PROGRAMS) as url:
        yield url


@pytest.fixture(params=LEDGERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty ledger is, as `open_ledger` takes it."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("server")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS ledger, spent")
    return url


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    writer = Writer(tmp_path / "store.db")
    yield writer
    await writer.aclose()
