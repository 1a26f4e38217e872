import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from alignstack.core.errors import DataError, NotFound, Unavailable
from alignstack.core.events import LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Span, Verdict
from alignstack.store import RunIndex, SqliteTraces, home, trace_id

WRITERS, EACH = 4, 25


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
