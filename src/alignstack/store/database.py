"""One sqlite file, opened so that several processes can write to it at the same time."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignstack.core.errors import DataError, Unavailable
from alignstack.store.schema import STEPS

WAIT = 30.0
"""Seconds to wait for another process's write; one write takes milliseconds."""

STATEMENTS = 256
"""Prepared statements kept: the writer has one for each table and number of rows."""


class Database:
    """A connection that threads take in turn. Raises DataError for a file that is not ours, Unavailable for a full
    disk or a file that stays locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._connection = connect(path)

    def write(self, statement: str, *values: object) -> int:
        """One statement, on disk in full or not at all. Returns the number of rows it touched."""
        with self._turn, faults(self.path):
            return self._connection.execute(statement, values).rowcount

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._turn, faults(self.path):
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        self._connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a store with all its tables; whoever uses it sees to `faults`. Raises like `Database`."""
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=WAIT, check_same_thread=False, isolation_level=None, cached_statements=STATEMENTS
        )
        _write_ahead(connection)
        if _version(connection) != len(STEPS):
            _migrate(connection, path)
        return connection


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """What sqlite raises, in the project's words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the store {str(path)!r} did not answer: {error}") from None
    except (sqlite3.DatabaseError, OSError) as error:
        raise DataError(
            f"{str(path)!r} is not a store ({error}); move it away, or set ALIGNSTACK_HOME to another folder"
        ) from None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers and one writer side by side. The change needs the file alone, and sqlite does not wait for that. Commits
    survive the death of the process; those of the last moments may not survive a loss of power."""
    end = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """All missing steps or none; of several processes one does it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > len(STEPS):
            raise DataError(f"{str(path)!r} was written by a newer alignstack; update this one")
        for step in STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
