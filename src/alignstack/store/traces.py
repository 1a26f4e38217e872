"""Traces by id, in sqlite. They keep every text as they are given it; `store.redact` says what a gateway gives them."""

import asyncio
import json
import logging
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

from alignstack.core.errors import NotFound
from alignstack.core.events import LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.trace import Trace
from alignstack.store.codec import TRACE, decode, encode_trace
from alignstack.store.database import Database
from alignstack.store.home import database
from alignstack.store.writer import Table, Writer, insert

log = logging.getLogger(__name__)

SHORTEST_PREFIX = 6
"""Characters of an id that may stand for it, when only one trace begins so."""

HINTS = 1000
"""Newest ids in which the nearest one to a wrong id is looked for."""

SLICE = 200
"""Traces deleted in one transaction: some milliseconds that other writers wait. Chosen by hand."""

PAGE = 100
"""Traces read at once in a search through texts. Chosen by hand."""

COLUMNS = ("id", "started", "body", "status", "caller", "layer", "hazard", "stack")
TRACES = Table(
    name="traces",
    columns=COLUMNS,
    on_conflict=f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}",
)


class SqliteTraces:
    """The TraceStore port; safe for several processes and threads. `path` None: the file of `writer`, else this
    machine's own store."""

    def __init__(self, path: Path | None = None, *, writer: Writer | None = None) -> None:
        self._writer = writer
        self._database = Database(path or (writer.path if writer else database()))
        self.lost = 0
        """Traces that `put_later` could not write."""

    def put(self, trace: Trace) -> None:
        """Replaces a trace of the same id."""
        self._database.write(insert(TRACES, 1), *_row(trace))

    def put_later(self, trace: Trace, *, key: str = "") -> "asyncio.Future[None]":
        """Through the writer, from its event loop. `key`: the id of the key that asked, where the caller of the trace
        is another. The future raises Unavailable; it need not be awaited, for a trace that is lost is counted, and the
        first of them is logged."""
        assert self._writer is not None, "this store was made without a writer"
        future = self._writer.submit(TRACES, _row(trace, key))
        future.add_done_callback(self._count)
        return future

    def get(self, trace_id: str) -> Trace:
        """By id, or by its first characters where they are unique. Raises NotFound with the nearest id."""
        found = self._database.rows("SELECT body FROM traces WHERE id = ?", trace_id) or self._beginning(trace_id)
        if len(found) != 1:
            raise NotFound("trace", trace_id, self.ids(HINTS))
        return decode(TRACE, found[0][0], f"trace {trace_id!r}")

    def recent(self, limit: int) -> list[Trace]:
        """Newest first."""
        return self.search(limit=limit)

    def search(
        self,
        *,
        since: float = -inf,
        until: float = inf,
        caller: str | None = None,
        status: str | None = None,
        layer: str | None = None,
        hazard: str | None = None,
        text: str = "",
        limit: int = 20,
    ) -> list[Trace]:
        """The newest that have all that is given. `since` ≤ start < `until`, in seconds since 1970; `caller` is the
        key where there was one; `layer` blocked or cut it, for `hazard`; `text` occurs in what was asked, answered or
        delivered, in upper or lower case."""
        given = {"caller": caller, "status": status, "layer": layer, "hazard": hazard}
        wanted = {name: value for name, value in given.items() if value is not None}
        where = " AND ".join(["started >= ?", "started < ?", *(f"{name} = ?" for name in wanted)])
        values: tuple[object, ...] = (since, until, *wanted.values())
        if text and text.isascii():  # sqlite knows upper and lower case of ASCII alone
            where, values = f"{where} AND instr(lower(body), ?)", (*values, json.dumps(text.lower())[1:-1])
        found: list[Trace] = []
        for trace in self._newest(where, values, PAGE if text else limit):
            if text.casefold() in _said(trace).casefold():
                found.append(trace)
            if len(found) == limit:
                break
        return found

    def expire(self, older_than: float) -> int:
        """Deletes traces that started before that time, in slices between which others may write. Returns how many."""
        older = "SELECT rowid FROM traces WHERE started < ? ORDER BY started LIMIT ?"
        deleted, last = 0, SLICE
        while last == SLICE:
            last = self._database.write(f"DELETE FROM traces WHERE rowid IN ({older})", older_than, SLICE)
            deleted += last
        return deleted

    def ids(self, limit: int) -> list[str]:
        """Newest first."""
        rows = self._database.rows("SELECT id FROM traces ORDER BY started DESC, rowid DESC LIMIT ?", limit)
        return [name for (name,) in rows]

    def close(self) -> None:
        self._database.close()

    def _count(self, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.lost += 1
            if self.lost == 1:
                log.error("traces are lost: %s", error)

    def _newest(self, where: str, values: tuple[object, ...], page: int) -> Iterator[Trace]:
        """Page by page, so that a search can stop early."""
        statement = f"""
            SELECT started, rowid, id, body FROM traces WHERE {where} AND (started, rowid) < (?, ?)
            ORDER BY started DESC, rowid DESC LIMIT ?
        """
        last: tuple[float, float] = (inf, inf)
        rows: list[tuple[Any, ...]] = [()] * page
        while len(rows) == page:
            rows = self._database.rows(statement, *values, *last, page)
            for started, number, name, body in rows:
                last = started, number
                yield decode(TRACE, body, f"trace {name!r}")

    def _beginning(self, prefix: str) -> list[tuple[Any, ...]]:
        if len(prefix) < SHORTEST_PREFIX:
            return []
        return self._database.rows("SELECT body FROM traces WHERE substr(id, 1, ?) = ? LIMIT 2", len(prefix), prefix)


def _row(trace: Trace, key: str = "") -> tuple[object, ...]:
    outcome, stop = trace.outcome, trace.stopped_by
    caller = key or next((event.caller for event in trace.events if isinstance(event, RequestEvent)), "")
    hazard = stop.verdict.hazard if isinstance(stop, LayerEvent) else None
    return (
        trace.id, trace.started, encode_trace(trace), outcome.status if outcome else "", caller,
        stop.layer if stop else "", hazard or "", trace.stack,
    )  # fmt: skip


def _said(trace: Trace) -> str:
    """All texts that a search looks through."""
    texts: list[str] = []
    for event in trace.events:
        match event:
            case RequestEvent():
                texts += [message.content for message in event.messages]
            case ModelEvent():
                texts.append(event.text)
            case OutcomeEvent():
                texts.append(event.delivered)
            case _:
                pass
    return "\n".join(texts)
