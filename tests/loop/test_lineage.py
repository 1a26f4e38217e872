"""A stage trained again from its folder: the same weights, or what is different."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from alignstack.core.errors import DataError
from alignstack.loop.lineage import repeat
from alignstack.training import lineage
from alignstack.training.stage import read_rows, write_rows
from tests.training import conftest as tiny

chats, folder, base, helpful = tiny.chats, tiny.folder, tiny.base, tiny.helpful


@pytest.fixture
def copy(base: Path, helpful: Path, tmp_path: Path) -> Path:
    """Both stages, away from the recipes and the data."""
    for checkpoint in (base, helpful):
        shutil.copytree(checkpoint, tmp_path / "moved" / checkpoint.name)
    return tmp_path / "moved/helpful"


def reseed(checkpoint: Path) -> None:
    recipe = yaml.safe_load((checkpoint / "recipe.yaml").read_text())
    (checkpoint / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"seed": 4}))


def reword(checkpoint: Path) -> None:
    rows = read_rows(checkpoint / "rows.jsonl.gz")
    rows[0]["messages"][-1]["content"] = "sure here is some tea"
    write_rows(checkpoint / "rows.jsonl.gz", rows)


def test_an_sft_run_repeated_has_the_same_weights(helpful: Path, tmp_path: Path) -> None:
    made = repeat(helpful, tmp_path / "again")
    assert made.same and made.differs == ()
    assert lineage.read(tmp_path / "again").rows == lineage.read(helpful).rows
    assert not (tmp_path / "again.work").exists()


def test_a_moved_lineage_needs_neither_recipe_nor_data_files(copy: Path, tmp_path: Path) -> None:
    made = repeat(copy, tmp_path / "again")
    assert made.same
    assert set(lineage.read(tmp_path / "again").data.values()) == {lineage.GONE}


@pytest.mark.parametrize(("change", "said"), [(reseed, "seed was 3, is 4"), (reword, "rows.jsonl.gz has changed")])
def test_another_seed_and_another_row_are_reported(
    copy: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(copy)
    made = repeat(copy, tmp_path / "again")
    assert not made.same
    assert any(said in line for line in made.differs)


def test_other_libraries_and_another_machine_are_named(copy: Path, tmp_path: Path) -> None:
    stage = asdict(lineage.read(copy))
    stage["libraries"]["trl"] = "0.1"
    (copy / lineage.FILE).write_text(json.dumps(stage | {"machine": "a toaster"}))
    made = repeat(copy, tmp_path / "again")
    assert any(line.startswith("trl was 0.1, is ") for line in made.differs)
    assert any("machine was a toaster" in line for line in made.differs)


def test_a_base_model_is_repeated_from_the_recipe_where_it_lay(base: Path, tmp_path: Path) -> None:
    assert repeat(base, tmp_path / "again").same


def test_what_is_not_kept_is_said(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is there already"):
        repeat(copy, copy)
    (copy / "recipe.yaml").unlink()
    with pytest.raises(DataError, match=r"keeps no recipe\.yaml"):
        repeat(copy, tmp_path / "again")


def test_a_missing_parent_is_said(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy.parent / "base")
    with pytest.raises(DataError, match="is gone"):
        repeat(copy, tmp_path / "again")
