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
