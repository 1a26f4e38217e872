"""Traces by id, in sqlite. They keep every text as it was, and hold no secret: callers are opaque ids."""

from pathlib import Path

from alignstack.core.errors import NotFound
from alignstack.core.trace import Trace
from alignstack.store.codec import TRACE, decode, encode
from alignstack.store.database import Database
from alignstack.store.home import database

SHORTEST_PREFIX = 6
"""Characters of an id that may stand for it, when only one trace begins so."""

HINTS = 1000
"""Newest ids in which the nearest one to a wrong id is looked for."""


class SqliteTraces:
    """The TraceStore port; safe for several processes and threads. `path` None: this machine's own store."""

    def __init__(self, path: Path | None = None) -> None:
        self._database = Database(path or database())

    def put(self, trace: Trace) -> None:
        """Replaces a trace of the same id."""
        row = (trace.id, trace.started, encode(TRACE, trace))
        self._database.write("INSERT OR REPLACE INTO traces (id, started, body) VALUES (?, ?, ?)", *row)

    def get(self, trace_id: str) -> Trace:
        """By id, or by its first characters where they are unique. Raises NotFound with the nearest id."""
        found = self._database.rows("SELECT body FROM traces WHERE id = ?", trace_id) or self._beginning(trace_id)
        if len(found) != 1:
            raise NotFound("trace", trace_id, self.ids(HINTS))
        return decode(TRACE, found[0][0], f"trace {trace_id!r}")

    def recent(self, limit: int) -> list[Trace]:
        """Newest first."""
        rows = self._database.rows("SELECT id, body FROM traces ORDER BY started DESC, rowid DESC LIMIT ?", limit)
        return [decode(TRACE, body, f"trace {name!r}") for name, body in rows]

    def ids(self, limit: int) -> list[str]:
        """Newest first."""
        rows = self._database.rows("SELECT id FROM traces ORDER BY started DESC, rowid DESC LIMIT ?", limit)
        return [name for (name,) in rows]

    def close(self) -> None:
        self._database.close()

    def _beginning(self, prefix: str) -> list[tuple[str, ...]]:
        if len(prefix) < SHORTEST_PREFIX:
            return []
        return self._database.rows("SELECT body FROM traces WHERE substr(id, 1, ?) = ? LIMIT 2", len(prefix), prefix)
