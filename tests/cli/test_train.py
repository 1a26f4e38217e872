"""`alignstack train` and `lineage`, from text to a child checkpoint."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from alignstack.cli.train import needs_extra
from tests.cli.conftest import Cli, lines

TEXTS = tuple({"text": f"The {word} sat on the mat and looked at the other {word}."} for word in ("cat", "dog", "owl"))
CHATS = tuple(
    {"messages": [{"role": "user", "content": f"Name a {kind}."}, {"role": "assistant", "content": f"A {word}."}]}
    for kind, word in (("pet", "cat"), ("bird", "owl"), ("colour", "blue"), ("number", "two"))
)


def write(path: Path, recipe: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")


def test_two_stages_and_their_lineage(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(lines(TEXTS), encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text(lines(CHATS), encoding="utf-8")
    shape = {"vocab": 320, "hidden": 16, "layers": 1, "heads": 2, "intermediate": 32, "context": 64}
    sources = [{"files": ["texts.jsonl", "chats.jsonl"], "tokens": 512}]
    optimiser = {"batch": 2, "warmup": 1}
    base = {"out": "base", "sources": sources, "length": 32, "model": shape, "optimiser": optimiser}
    child = {"name": "helpful", "parent": "base", "out": "helpful", "data": ["chats.jsonl"], "max_length": 64}
    write(tmp_path / "base.yaml", base)
    write(tmp_path / "helpful.yaml", {**child, "optimiser": optimiser})

    made = cli("train", "pretrain", "--config", "base.yaml", "--json", timeout=300)
    assert made.code == 0, made.err
    assert Path(made.document["out"]) == tmp_path / "base"
    made = cli("train", "sft", "--config", "helpful.yaml", "--json", timeout=300)
    assert made.code == 0, made.err
    assert "helpful: 2/2, loss " in made.err  # progress, a line on a pipe; stdout was one document
    steps = [json.loads(line)["step"] for line in (tmp_path / "helpful/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]  # the first log and the trainer's summary

    stages = cli("lineage", "helpful", "--json").document
    assert [(stage["stage"], stage["method"]) for stage in stages] == [("base", "pretrain"), ("helpful", "sft")]
    assert stages[1]["parent"] == stages[0]["weights"]
    assert "helpful" in cli("lineage", "helpful").out

    weights = tmp_path / "base" / "lineage.json"
    record = json.loads(weights.read_text(encoding="utf-8"))
    weights.write_text(json.dumps({**record, "weights": "0" * 64}), encoding="utf-8")
    ended = cli("lineage", "helpful")
    assert ended.code == 2 and "retrained" in ended.err


@pytest.mark.parametrize("method", ["pretrain", "sft", "classifier"])
def test_all_problems_of_a_recipe_come_at_once(cli: Cli, tmp_path: Path, method: str) -> None:
    write(tmp_path / "recipe.yaml", {"outt": "x", "seeed": 1})
    ended = cli("train", method, "--config", "recipe.yaml", "--json")
    assert ended.code == 2
    assert len(ended.document["error"]["problems"]) >= 3


def test_missing_recipe_is_an_error(cli: Cli) -> None:
    ended = cli("train", "sft", "--config", "nope.yaml")
    assert ended.code == 2 and "nope.yaml" in ended.err


def test_missing_libraries_name_the_extra() -> None:
    with pytest.raises(click.ClickException, match=r"pip install 'alignstack\[train\]'"):
        needs_extra("json", "no_such_library")
