import io
import json
import shutil
from pathlib import Path

import pytest

from alignstack.core.errors import DataError
from alignstack.training import lineage


def test_chain_runs_from_the_first_stage_to_the_last(helpful: Path) -> None:
    stages = lineage.chain(helpful)
    assert [stage.stage for stage in stages] == ["base", "helpful"]
    assert stages[1].parent == stages[0].weights


def test_chain_survives_a_move_of_all_stages_together(base: Path, helpful: Path, tmp_path: Path) -> None:
    for checkpoint in (base, helpful):
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    assert [stage.stage for stage in lineage.chain(tmp_path / "helpful")] == ["base", "helpful"]


def test_parent_with_other_weights_is_refused(base: Path, helpful: Path, tmp_path: Path) -> None:
    for checkpoint in (base, helpful):
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    changed = json.loads((tmp_path / "base/lineage.json").read_text())
    (tmp_path / "base/lineage.json").write_text(json.dumps(changed | {"weights": "0" * 64}))
    with pytest.raises(DataError, match="retrained"):
        lineage.chain(tmp_path / "helpful")


def test_folder_without_lineage_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lineage\.json"):
        lineage.read(tmp_path)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b"{"])
def test_broken_lineage_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lineage.json").write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        lineage.read(tmp_path)


def test_folders_go_back_as_far_as_the_weights_do(base: Path, helpful: Path, tmp_path: Path) -> None:
    assert [(stage.stage, place) for stage, place in lineage.folders(helpful)] == [("base", base), ("helpful", helpful)]
    alone = Path(shutil.copytree(helpful, tmp_path / "helpful"))
    assert [stage.stage for stage, _ in lineage.folders(alone)] == ["helpful"]
    assert lineage.weights(alone) == lineage.weights(helpful), "the missing parent is known by its hash"
    with pytest.raises(DataError, match=r"lineage\.json"):
        lineage.chain(alone)


def test_weights_before_an_export_belong_to_the_lineage(helpful: Path, tmp_path: Path) -> None:
    from alignstack.training import export, unpack

    unpacked = unpack.unpack(export.run(helpful, tmp_path / "exported"), tmp_path / "unpacked")
    assert lineage.read(unpacked).weights != lineage.read(helpful).weights, "int8 and back"
    assert lineage.weights(unpacked) == lineage.weights(helpful)
    file = export.run(unpacked, tmp_path / "again")
    assert unpack.unpack(file, tmp_path / "third") and lineage.weights(tmp_path / "third") == lineage.weights(helpful)


def test_a_record_says_where_its_recipe_lay_and_what_ran_it(helpful: Path, folder: Path) -> None:
    stage = lineage.read(helpful)
    assert (helpful / str(stage.recipe_path)).resolve() == (folder / "helpful.yaml").resolve()
    assert stage.libraries["alignstack"] and "threads: " in stage.machine


def test_the_tree_shows_what_is_known_of_each_stage(helpful: Path) -> None:
    from rich.console import Console

    from alignstack.report.lineage import show

    console = Console(width=100, record=True, file=io.StringIO())
    stages = lineage.chain(helpful)
    show(stages, console)
    text = console.export_text()
    assert text.index("base  pretrain") < text.index("helpful  sft")
    for stage in stages:
        assert stage.weights[:12] in text and f"{stage.tokens:,} tokens" in text
        assert all(f"{name} {sha[:12]}" in " ".join(text.split()) for name, sha in stage.data.items())
    assert stages[1].policy and stages[1].policy[:12] in text
