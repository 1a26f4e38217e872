"""One sqlite file, opened so that several processes can write to it at the same time."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignstack.core.errors import DataError, Unavailable

WAIT = 30.0
"""Seconds to wait for another process's write; one write takes milliseconds."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (id TEXT PRIMARY KEY, started REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS traces_by_time ON traces (started);
CREATE TABLE IF NOT EXISTS runs (folder TEXT PRIMARY KEY, run TEXT NOT NULL, added REAL NOT NULL);
CREATE INDEX IF NOT EXISTS runs_by_name ON runs (run);
"""


class Database:
    """A connection that threads take in turn. Raises DataError for a file that is not ours, Unavailable for a full
    disk or a file that stays locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        with self._faults():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=WAIT, check_same_thread=False, isolation_level=None)
            self._write_ahead()
            self._connection.executescript(SCHEMA)

    def write(self, statement: str, *values: object) -> None:
        """One statement, on disk in full or not at all."""
        with self._turn, self._faults():
            self._connection.execute(statement, values)

    def rows(self, statement: str, *values: object) -> list[tuple[str, ...]]:
        with self._turn, self._faults():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        self._connection.close()

    def _write_ahead(self) -> None:
        """Readers and one writer side by side. The change needs the file alone, and sqlite does not wait for that."""
        end = time.monotonic() + WAIT
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the store {str(self.path)!r} did not answer: {error}") from None
        except (sqlite3.DatabaseError, OSError) as error:
            raise DataError(
                f"{str(self.path)!r} is not a store ({error}); move it away, or set ALIGNSTACK_HOME to another folder"
            ) from None
