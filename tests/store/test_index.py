"""Where audits were written."""

from pathlib import Path

from alignstack.store.index import RunIndex


def run_folder(path: Path) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text("{}", encoding="utf-8")
    return path


def test_folders_are_those_still_there_newest_first(tmp_path: Path) -> None:
    index = RunIndex(tmp_path / "index.db")
    older, newer = run_folder(tmp_path / "older"), run_folder(tmp_path / "newer")
    for name, folder in (("a", older), ("b", tmp_path / "gone"), ("c", newer)):
        index.add(name, folder)
    assert index.folders() == [newer, older]
