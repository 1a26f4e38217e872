"""Rows written behind the event loop: many writers wait at once, one thread writes for all of them.

A request does not pay for its own trip to the disk. Rows gather while the thread is writing, and the next batch has all
of them: the thread is woken once for each batch, not for each row. sqlite gives the interpreter's lock away with every
statement and may wait milliseconds to get it back from a busy event loop; so rows of one table go in by ONE insert of
many rows, which is a transaction by itself.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from alignstack.core.errors import Unavailable
from alignstack.store.database import STATEMENTS, connect, faults

ROWS = 64
"""Rows of one statement at most: beyond that a longer statement saves nothing more. Chosen by hand."""

LONGEST_QUEUE = 20_000
"""Items that may wait; beyond that the disk does not keep up, and memory is not the place for the rest. By hand."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that rows go into."""

    name: str
    columns: tuple[str, ...]
    on_conflict: str = ""
    """What ends the statement, for example `ON CONFLICT (id) DO NOTHING`."""


Work = Callable[[sqlite3.Connection], Any]
Item = tuple[Table | None, Any, "asyncio.Future[Any]"]
"""A table and its row, or None and work; and who waits."""
Answer = tuple["asyncio.Future[Any]", Any]
"""Who waited, and the result or the exception that they get."""


class Writer:
    """The writing side of one sqlite file. All of its methods are for the thread of one event loop. Other processes
    may write to the file too. Raises like `Database` when the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect(path)
        self._gathered: list[Item] = []
        self._writing = 0
        """Items that the thread has."""
        self._flushing = False
        self._queue: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that are not written yet."""
        return len(self._gathered) + self._writing

    def submit(self, table: Table, row: tuple[Any, ...]) -> "asyncio.Future[None]":
        """Done once the row is committed; the future raises Unavailable when it could not be. A future that is
        cancelled does not take the row back."""
        return self._put(table, row)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """`work` in the writer's thread, in its turn; the future has what it returns or raises."""
        return self._put(None, work)

    async def aclose(self) -> None:
        """Write what waits, then close the file."""
        if self._ended is None:
            self._ended = self._bound().create_future()
            self._queue.put(self._gathered)
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _put(self, table: Table | None, what: Any) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._bound().create_future()
        if self._ended is not None:
            future.set_exception(Unavailable(f"the store {str(self.path)!r} is closed"))
        elif len(self._gathered) >= LONGEST_QUEUE:
            future.set_exception(Unavailable(f"the store {str(self.path)!r} does not keep up: its disk is too slow"))
        else:
            self._gathered.append((table, what, future))
            self._flush_soon()
        return future

    def _flush_soon(self) -> None:
        """Not at once: what else is ready to run now may have rows too."""
        if self._gathered and not self._writing and not self._flushing and self._ended is None:
            self._flushing = True
            self._bound().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._ended is None:
            batch, self._gathered = self._gathered, []
            self._writing = len(batch)
            self._queue.put(batch)

    def _bound(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            self._answer(self._written, self._write(batch))
        self._connection.close()
        self._answer(_end, self._ended)

    def _written(self, answers: Sequence[Answer]) -> None:
        """In the event loop."""
        self._writing = 0
        _resolve(answers)
        self._flush_soon()

    def _write(self, batch: Sequence[Item]) -> list[Answer]:
        """Everyone who waits, with what they get."""
        rows: dict[Table, list[Item]] = {}
        for item in batch:
            if item[0] is not None:
                rows.setdefault(item[0], []).append(item)
        chunks = [(table, items[at : at + ROWS]) for table, items in rows.items() for at in range(0, len(items), ROWS)]
        inserted = [answer for table, items in chunks for answer in self._insert(table, items)]
        return inserted + [(future, self._attempt(work)) for table, work, future in batch if table is None]

    def _insert(self, table: Table, items: Sequence[Item]) -> list[Answer]:
        statement, values = insert(table, len(items)), list(chain.from_iterable(row for _, row, _ in items))
        fault = self._attempt(lambda connection: connection.execute(statement, values) and None)
        if fault is None or isinstance(fault, Unavailable) or len(items) == 1:
            return [(future, fault) for _, _, future in items]
        # a value that sqlite cannot hold (half a surrogate pair, a number of 65 bits) is the fault of one row alone
        return [answer for item in items for answer in self._insert(table, [item])]

    def _attempt(self, work: Work) -> Any:
        """What `work` returns, or its exception: nothing ends the thread."""
        try:
            with faults(self.path):
                return work(self._connection)
        except Exception as error:
            return error

    def _answer(self, callback: Callable[[Any], None], argument: Any) -> None:
        """To the event loop, in one call; nobody waits any more when it is closed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback, argument)


@lru_cache(STATEMENTS)
def insert(table: Table, rows: int) -> str:
    """The statement for that many rows."""
    row = f"({', '.join('?' * len(table.columns))})"
    head = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES "
    return f"{head}{', '.join([row] * rows)} {table.on_conflict}"


def _resolve(answers: Sequence[Answer]) -> None:
    for future, outcome in answers:
        if future.done():
            continue  # whoever waited has gone
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _end(ended: "asyncio.Future[None]") -> None:
    ended.set_result(None)
