import json
from pathlib import Path

import pytest

from alignstack.core.errors import DataError
from alignstack.training.feedback.kept import Kept, unfinished


def test_what_was_said_outlives_the_process_but_for_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    first = Kept(path, "v1")
    first.add({"id": "b", "text": "two"})
    first.add({"id": "a", "text": "o\u2028ne"})
    with path.open("a") as file:
        file.write('{"id": "c", "te')  # killed while it wrote
    second = Kept(path, "v1")
    assert ("a" in second, "b" in second, "c" in second) == (True, True, False)
    second.add({"id": "c", "text": "three"})
    second.close(["a", "b", "c"])
    assert [json.loads(line)["id"] for line in path.read_text().split("\n")[:-1]] == ["a", "b", "c"]
    assert Kept(path, "v1").rows["a"]["text"] == "o\u2028ne"


def test_failures_are_kept_to_be_read_and_asked_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "said.jsonl", "v1")
    kept.add({"id": "a", "failed": "HTTP 500"})
    assert "a" not in kept and "HTTP 500" in (tmp_path / "said.jsonl").read_text()
    assert "a" not in Kept(tmp_path / "said.jsonl", "v1").rows


def test_what_somebody_else_said_does_not_count(tmp_path: Path) -> None:
    Kept(tmp_path / "said.jsonl", "v1").add({"id": "a"})
    assert "a" not in Kept(tmp_path / "said.jsonl", "v2")


def test_a_new_run_does_not_throw_away_what_a_killed_one_paid_for(tmp_path: Path) -> None:
    unfinished(tmp_path / "out", "said.jsonl")
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "said.jsonl").touch()
    with pytest.raises(DataError, match="--resume"):
        unfinished(tmp_path / "out", "said.jsonl")
