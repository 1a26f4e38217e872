import json
from pathlib import Path

import pytest
import yaml

from alignstack import policy
from alignstack.core.errors import ConfigError


def load(tmp_path: Path, text: str) -> policy.Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return policy.load(path)


def complaints(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_the_builtin_policy_covers_every_canonical_hazard_and_passes_its_own_check() -> None:
    builtin = policy.load()
    assert tuple(builtin.hazards) == (*policy.CANONICAL, *policy.ATTACKS)
    assert 12 <= len(builtin.principles) <= 16
    assert policy.check(builtin) == []


def test_an_extension_names_only_what_differs(tmp_path: Path) -> None:
    changed = load(tmp_path, "extends: built-in\nhazards: {sxc: {action: allow, per_layer: {out1: block}}}\n")
    assert changed.action("sxc", "in1") == "allow"
    assert changed.action("sxc", "out1") == "block"
    assert changed.hazards["vcr"] == policy.load().hazards["vcr"]
    assert "sxc" in changed.covered("out1") and "sxc" not in changed.covered("in1")


def test_a_hazard_that_the_policy_does_not_name_is_blocked() -> None:
    assert policy.load().action("somebody_elses_category", "in1") == "block"


def test_specialised_advice_is_answered() -> None:
    assert policy.load().action("spc", "any") == "allow"


def test_all_problems_of_a_policy_come_at_once(tmp_path: Path) -> None:
    text = """
extends: built-in
block_text: No.
principles: [{id: a, text: x}, {id: a, text: y}]
hazards:
  vcr: {action: blok, maps: {llama_guard: [S15]}}
  hte: {refusal: Sorry.}
  BAD: {title: t}
persna: x
version: 2
"""
    lines = complaints(tmp_path, text).splitlines()
    file = tmp_path / "policy.yaml"
    for where, what in {
        "block_text": "must open with",
        "principles": "ids used more than once: 'a'",
        "hazards.vcr.action": "did you mean 'block'?",
        "hazards.vcr.maps.llama_guard[0]": "should be",
        "hazards.hte.refusal": "must open with",
        "hazards.BAD": "not a valid id",
        "persna": "did you mean 'persona'?",
        "version": "put it in quotes",
    }.items():
        assert any(line.startswith(f"{file}: {where}:") and what in line for line in lines), (where, lines)


def test_a_missing_canonical_hazard_is_an_error_with_two_ways_out(tmp_path: Path) -> None:
    data = yaml.safe_load(policy.BUILTIN.read_text())
    del data["hazards"]["cse"]
    message = complaints(tmp_path, json.dumps(data))
    assert "missing: cse" in message and "action: allow" in message and "extends: built-in" in message


@pytest.mark.parametrize("text", ["[]", "just text", "3", "extends: builtin", "extends: [x]"])
def test_files_that_are_no_policy_get_an_error_that_names_them(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "policy.yaml") in complaints(tmp_path, text)


def test_environment_values_never_show_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN", "hunter2")
    message = complaints(
        tmp_path, 'extends: built-in\nhazards: {vcr: {action: "${HIDDEN}"}}\nblock_text: "${HIDDEN}"\n'
    )
    assert "hazards.vcr.action" in message and "block_text" in message and "hunter2" not in message


def test_fingerprint_follows_the_content_and_not_the_layout(tmp_path: Path) -> None:
    builtin = policy.load()
    reordered = json.dumps(yaml.safe_load(policy.BUILTIN.read_text()), sort_keys=True)
    assert load(tmp_path, reordered).fingerprint == builtin.fingerprint
    assert load(tmp_path, "extends: built-in\nname: other\n").fingerprint != builtin.fingerprint
    assert len(builtin.fingerprint) == 64


def test_policies_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        policy.load().name = "x"  # type: ignore[misc]


def test_names_of_other_tools_lead_to_hazards() -> None:
    builtin = policy.load()
    assert builtin.canonical("llama_guard", "S10") == ("hte",)
    assert builtin.canonical("openai_moderation", "illicit/violent") == ("vcr", "src", "iwp")
    assert builtin.canonical("shieldgemma", "Nothing") == ()
    mapped = {name for hazard in builtin.hazards.values() for name in hazard.maps.llama_guard}
    assert mapped == {f"S{number}" for number in range(1, 15)}


def test_schema_describes_the_builtin_file_and_refuses_unknown_keys() -> None:
    schema = policy.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(yaml.safe_load(policy.BUILTIN.read_text())) | {"extends"} == set(schema["properties"])
    assert schema["additionalProperties"] is False
