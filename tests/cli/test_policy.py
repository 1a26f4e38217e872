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


PUBLISHED = '{"harmful0": {"prompt": ["CritiqueRequest: Is it kind?"], "edit_request": "Make it kind."}}'


def test_imported_principles_make_a_policy_that_the_check_accepts(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text(PUBLISHED, encoding="utf-8")
    ended = cli("policy", "import-principles", "published.json", "--out", "policy.yaml")
    assert (ended.code, ended.out[:12]) == (0, "1 principles")
    assert cli("policy", "check", "policy.yaml", "--json").document["principles"] == 1
    assert cli("policy", "import-principles", "published.json").out == (tmp_path / "policy.yaml").read_text()
    again = cli("policy", "import-principles", "published.json", "--out", "policy.yaml")
    assert again.code == 2 and "exists already" in again.err


def test_an_entry_that_is_no_principle_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text('{"harmful0": {"prompt": ["Is it kind?"]}}', encoding="utf-8")
    ended = cli("policy", "import-principles", "published.json", "--json")
    assert (ended.code, ended.document["error"]["problems"][0]["where"]) == (2, "published.json: harmful0.edit_request")
