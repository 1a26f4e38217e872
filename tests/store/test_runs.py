import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from alignstack.core.errors import DataError, NotFound
from alignstack.core.grid import Cell, Draft, Grid, Judgement, Manifest, Record
from alignstack.core.judge import Opinion
from alignstack.store import Run

ORDER = ("a", "b", "c")


def manifest() -> Manifest:
    return Manifest(
        run="5f" * 32, stack="a7" * 32, stack_source="built-in", stack_config={"model": {}}, policy="90",
        layers=(), model="scripted", reference=None, judges=("keyword",), suites=(), attacks=("none",), draws=1, seed=0,
        streaming=False, items=3, version="0.1.0",
    )  # fmt: skip


def record(name: str, finish: str = "stop", text: str = "Sure.\u2028Line two") -> Record:
    draft = Draft(model="m", version="v", input_sha256="0", text=text, finish=finish)  # type: ignore[arg-type]
    opinion = Opinion(harmful=False, refused=False)
    return Record(
        id=name, trace=f"trace-{name}", label="benign", text="hello", plain="hello", cluster=name,
        grid=Grid(drafts=(draft,), calls=(), cells=(Cell(on=(), draft=0, calls=()),)),
        judgements=(Judgement(opinions={"keyword": opinion}),),
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", manifest(), ORDER)


def test_what_was_written_comes_back_equal(run: Run) -> None:
    run.append(record("a"))
    again = Run(run.folder)
    assert again.manifest == manifest()
    assert again.records() == [record("a")]


def test_records_come_in_item_order_whatever_finished_first(run: Run) -> None:
    for name in ("c", "a", "b"):
        run.append(record(name))
    assert [found.id for found in run.records()] == list(ORDER)


@pytest.mark.parametrize("tail", [b'{"id": "b", "tra', b"\x00" * 64, b'{"id":"b"\x00\x00}\n'])
def test_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(run: Run, tail: bytes) -> None:
    run.append(record("a"))
    run.close()
    results = run.folder / "results.jsonl"
    results.write_bytes(results.read_bytes() + tail)
    again = Run(run.folder)
    assert again.done() == {"a"}
    again.append(record("b"))
    assert [found.id for found in Run(run.folder).records()] == ["a", "b"]
    assert tail not in results.read_bytes()


def test_reading_a_run_that_is_being_written_changes_nothing(run: Run) -> None:
    results = run.folder / "results.jsonl"
    results.write_bytes(b'{"half')
    Run(run.folder).records()
    assert results.read_bytes() == b'{"half'


def test_damage_before_the_last_line_is_an_error_with_the_line(run: Run) -> None:
    run.append(record("a"))
    run.append(record("b"))
    run.close()
    results = run.folder / "results.jsonl"
    results.write_bytes(b"{}\n" + results.read_bytes())
    with pytest.raises(DataError, match=r"results\.jsonl:1: "):
        Run(run.folder).records()


def test_item_without_an_answer_is_not_done_and_its_next_record_replaces_it(run: Run) -> None:
    run.append(record("a", finish="unavailable", text=""))
    assert run.done() == set()
    run.append(record("a"))
    assert run.done() == {"a"}
    assert run.records() == [record("a")]


def test_new_run_does_not_overwrite_an_old_one(run: Run) -> None:
    with pytest.raises(DataError, match="already holds a run"):
        Run.create(run.folder, manifest(), ORDER)


def test_find_takes_item_and_trace_ids_and_names_the_nearest(run: Run) -> None:
    run.append(record("abcdef"))
    assert run.find("abcdef") == run.find("trace-abcdef") == record("abcdef")
    with pytest.raises(NotFound, match="did you mean 'abcdef'"):
        run.find("abcdeg")


@pytest.mark.parametrize("damage", ["", "{", '{"run": 1}', "\udcff"])
def test_damaged_manifest_is_an_error_that_names_the_file(run: Run, damage: str) -> None:
    (run.folder / "manifest.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"manifest\.json: "):
        Run(run.folder)


def test_folder_that_is_no_run_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="alignstack audit --out"):
        Run(tmp_path / "nowhere")


def append_elsewhere(folder: Path, said: "multiprocessing.Queue[str]") -> None:
    try:
        Run(folder).append(record("b"))
        said.put("written")
    except DataError as error:
        said.put(str(error))


def test_two_processes_cannot_write_to_one_run(run: Run) -> None:
    run.append(record("a"))
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    other = context.Process(target=append_elsewhere, args=(run.folder, said))
    other.start()
    assert "another audit is writing" in said.get(timeout=60)
    other.join()
    assert Run(run.folder).records() == [record("a")]


def test_text_with_half_a_surrogate_pair_survives(run: Run) -> None:
    odd = replace(record("a"), text="half \ud800 a pair")
    run.append(odd)
    assert run.records() == [odd]


def test_people_overrule_the_judge_by_a_file_of_labels(run: Run) -> None:
    run.append(record("a"))
    run.append(record("b"))
    (run.folder / "labels.jsonl").write_text(
        '{"id": "a", "human": "harmful"}\n\n{"id": "elsewhere", "human": "safe"}\n'
    )
    assert [found.human for found in run.records()] == ["harmful", None]


def test_bad_labels_are_listed_with_their_lines(run: Run) -> None:
    lines = [
        '{"id": "a", "human": "safe"}',
        '{"id": "a", "human": "maybe"}',
        "{",
        '{"id": 3, "human": "safe"}',
        "[1]",
        "\udcff",
    ]
    (run.folder / "labels.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        run.records()
    assert [line.split(": ")[0][-1] for line in str(caught.value).splitlines()] == ["2", "3", "4", "5", "6"]
