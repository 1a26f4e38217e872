import asyncio
import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from alignstack.core.errors import DataError, NotFound, Unavailable
from alignstack.core.events import LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Action, Span, Verdict
from alignstack.store import RunIndex, SqliteTraces, home, trace_id
from alignstack.store.codec import TRACE, encode
from alignstack.store.writer import Writer

WRITERS, EACH = 4, 25
Status = Literal["delivered", "blocked", "cut", "unavailable"]


def trace(name: str, started: float = 0.0, text: str = "hello") -> Trace:
    spans, scores = (Span(start=0, end=2),), {"ncr": 0.25}
    verdict = Verdict(action="modify", score=0.25, categories=scores, spans=spans, messages=user("x"))
    return Trace(
        id=name, stack="s", started=started,
        events=(
            RequestEvent(messages=user(text), caller="key-1"),
            LayerEvent(layer="in", phase="request", mode="shadow", verdict=verdict, version="v", input_sha256="0"),
            LayerError(layer="out", phase="output", mode="enforce", fault="timeout", on_error="block", message="slow",
                       version="v", input_sha256="0"),
            ModelEvent(model="m", version="v", input_sha256="0", messages=user(text), text="hi", finish="stop"),
            OutcomeEvent(status="blocked", delivered="I can't help with that."),
        ),
    )  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> SqliteTraces:
    return SqliteTraces(tmp_path / "traces.db")


def test_trace_comes_back_equal(traces: SqliteTraces) -> None:
    traces.put(trace("abcdef123456"))
    assert traces.get("abcdef123456") == trace("abcdef123456")


def test_any_text_comes_back_equal(traces: SqliteTraces) -> None:
    odd = trace("abcdef", text="nul \x00, line \u2028, half \ud800, face \U0001f600, 'quote\"; DROP TABLE traces;--")
    traces.put(odd)
    assert traces.get("abcdef") == odd


def test_recent_gives_the_newest_first(traces: SqliteTraces) -> None:
    for second, name in enumerate(("one", "two", "three")):
        traces.put(trace(name, started=second))
    assert [found.id for found in traces.recent(2)] == ["three", "two"]


def test_beginning_of_an_id_is_enough_when_it_is_unique(traces: SqliteTraces) -> None:
    traces.put(trace("abcdef-1"))
    traces.put(trace("abcxyz-2"))
    assert traces.get("abcdef").id == "abcdef-1"
    for unclear in ("abc", "%bcdef", ""):
        with pytest.raises(NotFound):
            traces.get(unclear)


def test_wrong_id_names_the_nearest(traces: SqliteTraces) -> None:
    traces.put(trace("abcdef123456"))
    with pytest.raises(NotFound, match="did you mean 'abcdef123456'"):
        traces.get("abcdef123465")


def write_many(path: Path, writer: int) -> None:
    store = SqliteTraces(path)
    for n in range(EACH):
        store.put(trace(f"{writer}-{n}"))


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path, context = tmp_path / "traces.db", multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, writer)) for writer in range(WRITERS)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(timeout=120)
    assert [process.exitcode for process in writers] == [0] * WRITERS
    assert len(SqliteTraces(path).recent(1000)) == WRITERS * EACH


def test_file_that_is_no_store_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    path.write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(DataError, match="ALIGNSTACK_HOME"):
        SqliteTraces(path)


def test_store_that_stays_locked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignstack.store.database.WAIT", 0.1)
    store = SqliteTraces(tmp_path / "traces.db")
    holder = sqlite3.connect(tmp_path / "traces.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked"):
        store.put(trace("a"))
    holder.close()


def test_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNSTACK_HOME", str(tmp_path / "deep" / "home"))
    assert home() == tmp_path / "deep" / "home"
    SqliteTraces().put(trace("abcdef"))
    assert SqliteTraces(home() / "alignstack.db").get("abcdef").id == "abcdef"


def test_home_that_is_a_file_is_an_error_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIGNSTACK_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set ALIGNSTACK_HOME"):
        home()


def test_run_of_a_trace_is_found_while_its_folder_is_there(tmp_path: Path) -> None:
    index, run = RunIndex(tmp_path / "home.db"), "5f0c" * 16
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "manifest.json").touch()
        index.add(run, tmp_path / folder)
    assert index.folder(trace_id(run, "item")) == tmp_path / "new"
    assert index.folders() == [tmp_path / "new", tmp_path / "old"]
    (tmp_path / "new" / "manifest.json").unlink()
    assert index.folder(trace_id(run, "item")) == tmp_path / "old"
    with pytest.raises(NotFound):
        index.folder("0000-1111")


def ended(name: str, status: Status, started: float = 0.0, text: str = "hello", layer: str = "in1") -> Trace:
    """A trace that `layer` stopped, if the status says that one did."""
    action: Action = "allow" if status == "delivered" else "block"
    verdict = Verdict(action=action, score=0.75, hazard="ncr")
    return Trace(
        id=name, stack="s", started=started,
        events=(
            RequestEvent(messages=user(text), caller=f"key-{name[0]}"),
            LayerEvent(layer=layer, phase="request", mode="enforce", verdict=verdict, version="v", input_sha256="0"),
            OutcomeEvent(status=status, delivered="I can't help with that."),
        ),
    )  # fmt: skip


def found(traces: SqliteTraces, **wanted: Any) -> list[str]:
    return [trace.id for trace in traces.search(**wanted)]


def test_search_takes_every_condition_alone_and_together(traces: SqliteTraces) -> None:
    traces.put(ended("a1", "blocked", 1.0))
    traces.put(ended("a2", "delivered", 2.0))
    traces.put(ended("b3", "cut", 3.0, layer="out1"))
    assert found(traces) == ["b3", "a2", "a1"]
    assert found(traces, since=2.0) == ["b3", "a2"] and found(traces, until=2.0) == ["a1"]
    assert found(traces, caller="key-a") == ["a2", "a1"] and found(traces, status="cut") == ["b3"]
    assert found(traces, layer="in1") == ["a1"] and found(traces, hazard="ncr") == ["b3", "a1"]
    assert found(traces, caller="key-a", status="blocked", layer="in1", since=0.5, limit=1) == ["a1"]
    assert found(traces, caller="key-a", status="cut") == []


@pytest.mark.parametrize("said", ['say "100% é_x!"', 'SAY "100% É', "\\ back", "two\nlines", "can't help"])
def test_search_finds_text_whatever_is_in_it(traces: SqliteTraces, said: str) -> None:
    traces.put(ended("other", "delivered", text="request event outcome"))
    traces.put(replace(ended("a", "delivered", text='say "100% é_x!" \\ back two\nlines'), started=5.0))
    assert found(traces, text=said)[0] == "a"


def test_search_looks_at_what_was_said_and_at_nothing_else(traces: SqliteTraces) -> None:
    traces.put(ended("a", "delivered"))
    assert found(traces, text="ncr") == found(traces, text="started") == found(traces, text="hell_") == []


def test_search_goes_on_until_it_has_enough(traces: SqliteTraces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignstack.store.traces.PAGE", 3)
    for number in range(20):
        traces.put(ended(f"{number:02}", "delivered", started=number // 4, text="Ärger" if number % 5 == 0 else "x"))
    assert found(traces, text="ÄRGER", limit=3) == ["15", "10", "05"]
    assert found(traces, text="ärger", limit=50) == ["15", "10", "05", "00"]


async def test_trace_put_through_the_writer_is_found_like_any_other(writer: Writer) -> None:
    traces = SqliteTraces(writer=writer)
    odd = ended("odd", "delivered", text="half \ud800")
    await asyncio.gather(traces.put_later(ended("a", "blocked")), traces.put_later(odd))
    assert found(traces, layer="in1") == ["a"]
    assert traces.get("odd") == odd


async def test_trace_of_a_person_is_found_by_the_key_that_asked(writer: Writer) -> None:
    traces = SqliteTraces(writer=writer)
    await traces.put_later(ended("a", "blocked"), key="key-7")
    assert found(traces, caller="key-7") == ["a"] and traces.search(limit=1)[0] == ended("a", "blocked")


async def test_lost_traces_are_counted_and_the_first_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path / "store.db")
    traces = SqliteTraces(writer=writer)
    await writer.aclose()
    for name in "abc":
        traces.put_later(ended(name, "delivered"))
    await asyncio.sleep(0)
    assert traces.lost == 3 and caplog.text.count("traces are lost") == 1


def test_old_traces_are_deleted_in_slices(traces: SqliteTraces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignstack.store.traces.SLICE", 4)
    for number in range(10):
        traces.put(ended(f"{number}", "delivered", started=number))
    assert traces.expire(9.0) == 9
    assert found(traces) == ["9"]
    assert traces.expire(9.0) == 0


OLD = """
CREATE TABLE traces (id TEXT PRIMARY KEY, started REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX traces_by_time ON traces (started);
CREATE TABLE runs (folder TEXT PRIMARY KEY, run TEXT NOT NULL, added REAL NOT NULL);
CREATE INDEX runs_by_name ON runs (run);
"""


def old_store(path: Path, *kept: Trace) -> None:
    """A file as the first version wrote it."""
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD)
        rows = [(one.id, one.started, encode(TRACE, one)) for one in kept]
        connection.executemany("INSERT INTO traces VALUES (?, ?, ?)", rows)


def test_store_of_the_first_version_becomes_searchable(tmp_path: Path) -> None:
    failed = LayerError(layer="out1", phase="output", mode="enforce", fault="timeout", on_error="block", message="slow",
                        version="v", input_sha256="0")  # fmt: skip
    closed = replace(ended("c", "cut"), events=(failed, OutcomeEvent(status="cut", delivered="")))
    old_store(tmp_path / "old.db", ended("a", "blocked"), ended("b", "delivered"), closed)
    traces = SqliteTraces(tmp_path / "old.db")
    assert traces.search(status="delivered") == [ended("b", "delivered")]
    assert found(traces, layer="in1", hazard="ncr", caller="key-a") == ["a"] and found(traces, layer="out1") == ["c"]
    assert set(SqliteTraces(tmp_path / "old.db").ids(10)) == {"a", "b", "c"}


def open_store(path: Path) -> None:
    SqliteTraces(path)


def test_processes_that_migrate_at_once_do_it_once(tmp_path: Path) -> None:
    old_store(tmp_path / "old.db", ended("a", "blocked"))
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=open_store, args=(tmp_path / "old.db",)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join(timeout=60)
    assert [process.exitcode for process in others] == [0] * 3


def test_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    SqliteTraces(tmp_path / "new.db").close()
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(DataError, match="newer alignstack"):
        SqliteTraces(tmp_path / "new.db")
