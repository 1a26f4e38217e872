import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from alignstack.core.errors import DataError, Unavailable
from alignstack.store import writer as module
from alignstack.store.writer import Table, Writer, insert

NOTES = Table(name="runs", columns=("folder", "run", "added"), on_conflict="ON CONFLICT (folder) DO NOTHING")


def names(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [name for (name,) in connection.execute("SELECT folder FROM runs ORDER BY rowid")]


async def test_row_is_in_the_file_when_the_future_is_done(writer: Writer) -> None:
    await writer.submit(NOTES, ("a", "run", 1.0))
    assert names(writer.path) == ["a"]


async def test_rows_keep_the_order_in_which_they_came(writer: Writer) -> None:
    sent = [f"{n}" for n in range(500)]
    await asyncio.gather(*(writer.submit(NOTES, (name, "run", 1.0)) for name in sent))
    assert names(writer.path) == sent


async def test_rows_that_wait_go_in_by_few_statements(writer: Writer) -> None:
    statements: list[str] = []
    held, go = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.append)
        held.set()
        go.wait(10)

    holding = writer.run(hold)
    await asyncio.to_thread(held.wait)
    rows = [writer.submit(NOTES, (f"{n}", "run", 1.0)) for n in range(150)]
    go.set()
    await asyncio.gather(holding, *rows)
    assert len([text for text in statements if text.startswith("INSERT")]) == 3


async def test_bad_row_fails_alone(writer: Writer) -> None:
    rows = [writer.submit(NOTES, (name, "run", 1.0)) for name in ("a", "half \ud800", "b")]
    outcomes = await asyncio.gather(*rows, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), UnicodeEncodeError, type(None)]
    assert names(writer.path) == ["a", "b"]


async def test_full_disk_is_unavailable_until_there_is_room(writer: Writer) -> None:
    pages = await writer.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone())
    big = [writer.submit(NOTES, (f"{n}" * 9000, "run", 1.0)) for n in range(5)]
    assert {type(outcome) for outcome in await asyncio.gather(*big, return_exceptions=True)} == {Unavailable}
    await writer.run(lambda connection: connection.execute("PRAGMA max_page_count=100000").fetchone())
    await writer.submit(NOTES, ("room", "run", 1.0))
    assert names(writer.path) == ["room"]


async def test_file_that_stays_locked_is_unavailable_and_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignstack.store.database.WAIT", 0.1)
    writer = Writer(tmp_path / "store.db")
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await writer.submit(NOTES, ("a", "run", 1.0))
    holder.execute("ROLLBACK")
    await writer.submit(NOTES, ("b", "run", 1.0))
    await writer.aclose()
    assert names(writer.path) == ["b"]


async def test_two_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    writers = [Writer(tmp_path / "store.db") for _ in range(2)]
    rows = [writer.submit(NOTES, (f"{at}-{n}", "run", 1.0)) for n in range(300) for at, writer in enumerate(writers)]
    await asyncio.gather(*rows)
    for writer in writers:
        await writer.aclose()
    assert len(names(tmp_path / "store.db")) == 600


async def test_closing_writes_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "store.db")
    rows = [writer.submit(NOTES, (f"{n}", "run", 1.0)) for n in range(200)]
    await asyncio.gather(writer.aclose(), writer.aclose())
    assert all(row.done() for row in rows) and len(names(writer.path)) == 200
    with pytest.raises(Unavailable, match="closed"):
        await writer.submit(NOTES, ("late", "run", 1.0))


async def test_whoever_stops_waiting_does_not_take_the_row_back(writer: Writer) -> None:
    gone = writer.submit(NOTES, ("a", "run", 1.0))
    gone.cancel()
    await writer.submit(NOTES, ("b", "run", 1.0))
    assert names(writer.path) == ["a", "b"]


async def test_queue_is_bounded(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_QUEUE", 3)
    go = threading.Event()
    holding = [writer.run(lambda connection: go.wait(10)) for _ in range(10)]
    go.set()
    outcomes = await asyncio.gather(*holding, return_exceptions=True)
    assert any(isinstance(outcome, Unavailable) and "keep up" in str(outcome) for outcome in outcomes)


async def test_work_that_fails_hurts_nobody_else(writer: Writer) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise KeyError("mine")

    failing, row = writer.run(fail), writer.submit(NOTES, ("a", "run", 1.0))
    with pytest.raises(KeyError, match="mine"):
        await failing
    await row


def test_statement_has_one_group_of_marks_for_each_row() -> None:
    assert insert(NOTES, 2).count("(?, ?, ?)") == 2


def test_file_that_is_no_store_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(DataError, match="ALIGNSTACK_HOME"):
        Writer(tmp_path / "store.db")
