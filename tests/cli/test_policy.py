"""`alignstack policy check|diff`."""

from pathlib import Path

from tests.cli.conftest import Cli


def test_built_in_policy_is_valid(cli: Cli) -> None:
    facts = cli("policy", "check", "--json").document
    assert facts["doubts"] == []
    assert {"vcr", "sxc", "jailbreak"} <= set(facts["hazards"])


def test_diff_names_the_path_that_changed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("extends: built-in\n", encoding="utf-8")
    (tmp_path / "new.yaml").write_text("extends: built-in\nhazards: {spc: {action: block}}\n", encoding="utf-8")
    changes = cli("policy", "diff", "old.yaml", "new.yaml", "--json").document
    assert [change["path"] for change in changes] == ["hazards.spc.action"]
    assert "hazards.spc.action" in cli("policy", "diff", "old.yaml", "new.yaml").out


def test_same_policy_has_no_difference(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("extends: built-in\n", encoding="utf-8")
    ended = cli("policy", "diff", "old.yaml", "old.yaml")
    assert (ended.code, ended.out) == (0, "no difference\n")
