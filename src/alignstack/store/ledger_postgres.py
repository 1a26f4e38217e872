"""The ledger in PostgreSQL: the same rows and the same answers for gateways on several machines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from alignstack.core.errors import ConfigError, Problem, Unavailable
from alignstack.core.usage import Admitted, Allowance, Settled, Used
from alignstack.store import entries
from alignstack.store.budgets import Span, budgeted, check
from alignstack.store.entries import ADMITTED, ONCE, RESERVE, SETTLED, SPENT, THERE, Group, Recent, Row

SCHEMA = """
SELECT pg_advisory_xact_lock(7214560317);
CREATE TABLE IF NOT EXISTS ledger (
  id text NOT NULL, event text NOT NULL CHECK (event IN ('admitted', 'settled')), at double precision NOT NULL,
  key text NOT NULL DEFAULT '', person text NOT NULL DEFAULT '', route text NOT NULL DEFAULT '',
  model text NOT NULL DEFAULT '', tokens bigint NOT NULL DEFAULT 0, usd double precision NOT NULL DEFAULT 0,
  status text NOT NULL DEFAULT '', input_tokens bigint NOT NULL DEFAULT 0, output_tokens bigint NOT NULL DEFAULT 0,
  layer text NOT NULL DEFAULT '', hazard text NOT NULL DEFAULT '', seconds double precision NOT NULL DEFAULT 0,
  PRIMARY KEY (id, event));
CREATE INDEX IF NOT EXISTS ledger_by_key ON ledger (key, at) WHERE event = 'admitted';
CREATE INDEX IF NOT EXISTS ledger_by_time ON ledger (at) WHERE event = 'admitted';
CREATE TABLE IF NOT EXISTS spent (
  key text NOT NULL, day bigint NOT NULL, slot integer NOT NULL, tokens bigint NOT NULL, usd double precision NOT NULL,
  PRIMARY KEY (key, day, slot));
CREATE OR REPLACE FUNCTION ledger_spends() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE was ledger%ROWTYPE; more_tokens bigint := NEW.tokens; more_usd double precision := NEW.usd;
BEGIN
  was := NEW;
  IF NEW.event = 'settled' THEN
    SELECT * INTO was FROM ledger WHERE id = NEW.id AND event = 'admitted';
    IF NOT FOUND THEN RETURN NULL; END IF;
    more_tokens := NEW.input_tokens + NEW.output_tokens - was.tokens;
    more_usd := NEW.usd - was.usd;
  END IF;
  INSERT INTO spent (key, day, slot, tokens, usd)
  VALUES (was.key, floor(was.at / 86400), pg_backend_pid() % 32, more_tokens, more_usd)
  ON CONFLICT (key, day, slot) DO UPDATE
  SET tokens = spent.tokens + excluded.tokens, usd = spent.usd + excluded.usd;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER ledger_spends AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_spends();
"""
"""`spent` holds what each key has used or reserved on each day of UTC. It has 32 slots for each, chosen by hand: with
one, every request of a busy key would wait for the commit of the one before it."""

CONNECTIONS = 8
"""Of one process; chosen by hand."""

WAIT_S = 10.0
"""Seconds to wait for a connection; chosen by hand."""

T = TypeVar("T")


def _sql(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


def _insert(columns: tuple[str, ...], event: str) -> bytes:
    values = ", ".join("?" * len(columns))
    return _sql(f"INSERT INTO ledger (event, {', '.join(columns)}) VALUES ('{event}', {values}) {ONCE}")


IN, OUT = _insert(ADMITTED, "admitted"), _insert(SETTLED, "settled")


class PostgresLedger:
    """The Ledger port, and its readers. `url`: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. Opens at first use.
    Raises Unavailable when the server does not answer, ConfigError for a URL that is none; neither says the
    password."""

    def __init__(self, url: str) -> None:
        self._name, self._url = _without_password(url), url
        self._pool = AsyncConnectionPool(
            url, kwargs={"autocommit": True}, min_size=1, max_size=CONNECTIONS, timeout=WAIT_S, open=False
        )
        self._ready = False

    async def admit(self, entry: Admitted, allowance: Allowance) -> None:
        """Returns once it is on disk. Raises BudgetSpent."""
        entry = entries.storable(entry)
        if budgeted(allowance):
            await self._with(lambda connection: _reserve(connection, entry, allowance))
        else:
            await self._with(lambda connection: connection.execute(IN, entries.admitted_row(entry)))

    async def settle(self, entry: Settled) -> None:
        """Returns once it is on disk."""
        await self._with(lambda connection: connection.execute(OUT, entries.settled_row(entry)))

    async def ping(self) -> None:
        """Returns when the server answers."""
        await self._with(lambda connection: connection.execute("SELECT 1"))

    async def usage(
        self, since: float = 0.0, until: float = inf, key: str | None = None, by: Group = "key"
    ) -> list[Used]:
        """As `SqliteLedger.usage`."""
        line = {"key": "a.key", "day": "to_char(to_timestamp(a.at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"}[by]
        return [entries.used(row) for row in await self._rows(entries.usage(line), since, until, key, key)]

    async def recent(self, key: str, since: float, limit: int = 10_000) -> list[Recent]:
        """The newest `limit` requests of one key since then, oldest first."""
        return [entries.recent(row) for row in reversed(await self._rows(entries.RECENT, key, since, limit))]

    async def entries(self, since: float = 0.0, until: float = inf) -> AsyncIterator[Admitted | Settled]:
        """Every row by time."""
        for row in await self._rows(entries.ENTRIES, since, until):
            yield entries.entry(row)

    async def aclose(self) -> None:
        await self._pool.close()

    async def _rows(self, statement: str, *values: object) -> list[Row]:
        async def read(connection: AsyncConnection[Row]) -> list[Row]:
            return await (await connection.execute(_sql(statement), values)).fetchall()

        return await self._with(read)

    async def _with(self, work: Callable[[AsyncConnection[Row]], Awaitable[T]]) -> T:
        """Twice when the server went away in between: what was written is not written again."""
        try:
            await self._open()
            try:
                async with self._pool.connection() as connection:
                    return await work(connection)
            except psycopg.OperationalError:
                async with self._pool.connection() as connection:
                    return await work(connection)
        except (psycopg.Error, PoolTimeout) as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise Unavailable(f"the ledger {self._name!r} did not answer: {why}") from None

    async def _open(self) -> None:
        if self._ready:
            return
        async with await AsyncConnection.connect(self._url, connect_timeout=int(WAIT_S)) as connection:
            await connection.execute(SCHEMA.encode())
        await self._pool.open()
        self._ready = True


async def _reserve(connection: AsyncConnection[Row], entry: Admitted, allowance: Allowance) -> None:
    """Decisions about one key one after the other, whichever process makes them. Raises BudgetSpent."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (entry.key,))
        while not (await connection.execute(_sql(RESERVE), entries.reserve_row(entry, allowance))).rowcount:
            if await (await connection.execute(_sql(THERE), (entry.id,))).fetchone():
                return
            found = await connection.execute(_sql(SPENT), Span.of(entry.at).where(entry.key))
            tokens, day, month = await found.fetchone() or (0, 0, 0)
            check(entry, allowance, (int(tokens), float(day), float(month)))


def _without_password(url: str) -> str:
    """What may be said of it. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        psycopg.conninfo.conninfo_to_dict(url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except (ValueError, psycopg.Error):
        what = "is no URL of PostgreSQL; it should be postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise ConfigError([Problem(where="ledger", what=what)]) from None
