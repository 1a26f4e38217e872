"""`alignstack lineage --repeat`: 0 for the same weights, 1 for others."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from alignstack.cli import cli as group
from tests.training import conftest as tiny

chats, folder, base, helpful = tiny.chats, tiny.folder, tiny.base, tiny.helpful


def lineage(*arguments: str | Path) -> tuple[int, str]:
    ended = CliRunner().invoke(group, ["lineage", *map(str, arguments)], standalone_mode=False)
    assert ended.exception is None, ended.exception
    return ended.return_value, ended.stdout


def test_the_same_weights_are_exit_0(helpful: Path, tmp_path: Path) -> None:
    code, out = lineage(helpful, "--repeat", tmp_path / "again")
    assert code == 0 and "the same weights" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_other_weights_are_exit_1(base: Path, helpful: Path, tmp_path: Path, as_json: bool) -> None:
    for checkpoint in (base, helpful):
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    recipe = tmp_path / "helpful/recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"seed": 4}))
    code, out = lineage(tmp_path / "helpful", "--repeat", tmp_path / "again", *(["--json"] if as_json else []))
    assert code == 1
    if as_json:
        document = json.loads(out)
        assert not document["same"] and "seed was 3, is 4" in document["differs"]
    else:
        assert out.startswith("other weights: ")


def test_the_tree_is_drawn(helpful: Path) -> None:
    code, out = lineage(helpful)
    assert code == 0 and out.index("base") < out.index("helpful")
