"""Who asked for what, and how it ended: append-only, in sqlite.

A request is two rows: `admitted`, with the most that it may use, before the model is asked; `settled`, with what it
used, before the client has the whole answer. Each is there once, however often it is written. A request that was never
settled, because the process was killed, goes on counting towards budgets by the most that it may have used.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from math import inf

from alignstack.core.usage import Admitted, Allowance, Settled, Used
from alignstack.store import entries
from alignstack.store.budgets import Span, budgeted, check
from alignstack.store.database import Database
from alignstack.store.entries import ADMITTED, ONCE, RESERVE, SETTLED, SPENT, THERE, Group, Recent, Row
from alignstack.store.writer import Table, Writer

LEDGER = Table(
    name="ledger",
    columns=("event", *ADMITTED, *(name for name in SETTLED if name not in ADMITTED)),
    on_conflict=ONCE,
)
"""One table for both kinds of row, so that those that wait together go in by one statement."""


class SqliteLedger:
    """The Ledger port, and its readers. Several processes may write to one file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._reader = Database(writer.path)

    async def admit(self, entry: Admitted, allowance: Allowance) -> None:
        """Returns once it is on disk. Raises BudgetSpent, and Unavailable when the disk takes no more."""
        entry = entries.storable(entry)
        if budgeted(allowance):
            await self._writer.run(lambda connection: _reserve(connection, entry, allowance))
        else:
            await self._writer.submit(LEDGER, ("admitted", *entries.admitted_row(entry), "", 0, 0, "", "", 0.0))

    async def settle(self, entry: Settled) -> None:
        """Returns once it is on disk. Raises Unavailable when the disk takes no more."""
        name, at, status, asked, answered, usd, *rest = entries.settled_row(entry)
        await self._writer.submit(LEDGER, ("settled", name, at, "", "", "", "", 0, usd, status, asked, answered, *rest))

    async def ping(self) -> None:
        """Returns when the disk can be reached."""
        await self._writer.run(lambda connection: connection.execute("SELECT 1").fetchone())

    async def usage(
        self, since: float = 0.0, until: float = inf, key: str | None = None, by: Group = "key"
    ) -> list[Used]:
        """What was admitted in that span of time (seconds since 1970, `until` excluded) and what became of it, one line
        for each key. By day `Used.key` is the day of UTC, for example `2026-11-25`."""
        line = {"key": "a.key", "day": "strftime('%Y-%m-%d', a.at, 'unixepoch')"}[by]
        rows = await self._rows(entries.usage(line), since, until, key, key)
        return [entries.used(row) for row in rows]

    async def recent(self, key: str, since: float, limit: int = 10_000) -> list[Recent]:
        """The newest `limit` requests of one key since then, oldest first."""
        return [entries.recent(row) for row in reversed(await self._rows(entries.RECENT, key, since, limit))]

    async def entries(self, since: float = 0.0, until: float = inf) -> AsyncIterator[Admitted | Settled]:
        """Every row by time."""
        for row in await self._rows(entries.ENTRIES, since, until):
            yield entries.entry(row)

    async def aclose(self) -> None:
        """Closes the reading side; the writer belongs to whoever made it."""
        self._reader.close()

    async def _rows(self, statement: str, *values: object) -> list[Row]:
        return await asyncio.to_thread(self._reader.rows, statement, *values)


def _reserve(connection: sqlite3.Connection, entry: Admitted, allowance: Allowance) -> None:
    """Raises BudgetSpent. Between two statements another request may give back what it had reserved: then again."""
    while not connection.execute(RESERVE, entries.reserve_row(entry, allowance)).rowcount:
        if connection.execute(THERE, (entry.id,)).fetchone():
            return
        check(entry, allowance, connection.execute(SPENT, Span.of(entry.at).where(entry.key)).fetchone())
