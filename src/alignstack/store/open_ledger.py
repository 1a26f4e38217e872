"""Which ledger a URL means."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignstack.core.errors import ConfigError, Problem
from alignstack.store.home import database
from alignstack.store.ledger import SqliteLedger
from alignstack.store.writer import Writer

if TYPE_CHECKING:
    from alignstack.store.ledger_postgres import PostgresLedger

SQLITE = "sqlite://"
POSTGRES = ("postgresql://", "postgres://")


@asynccontextmanager
async def open_ledger(
    url: str | None = None, writer: Writer | None = None
) -> AsyncIterator["SqliteLedger | PostgresLedger"]:
    """None: this machine's own store, through `writer` where there is one already. Raises ConfigError for a URL that
    means no ledger, Unavailable when the database does not answer."""
    async with AsyncExitStack() as stack:
        if url is not None and url.startswith(POSTGRES):
            yield await stack.enter_async_context(aclosing(_postgres(url)))
            return
        if url is not None or writer is None:
            writer = await stack.enter_async_context(aclosing(Writer(_path(url))))
        yield await stack.enter_async_context(aclosing(SqliteLedger(writer)))


def _postgres(url: str) -> "PostgresLedger":
    try:
        from alignstack.store.ledger_postgres import PostgresLedger
    except ImportError:
        what = "PostgreSQL needs another package; install `alignstack[postgres]`"
        raise ConfigError([Problem(where="ledger", what=what)]) from None
    return PostgresLedger(url)


def _path(url: str | None) -> Path:
    if url is None:
        return database()
    if not url.startswith(SQLITE) or len(url) == len(SQLITE):
        what = f"should be `{SQLITE}PATH` or `{POSTGRES[0]}USER:PASSWORD@HOST:PORT/DATABASE`"
        raise ConfigError([Problem(where="ledger", what=what)])
    return Path(url.removeprefix(SQLITE)).expanduser()
