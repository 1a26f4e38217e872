from pathlib import Path

from alignstack import policy


def checked(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "p.yaml"
    path.write_text("extends: built-in\n" + text)
    return [str(problem) for problem in policy.check(policy.load(path), "p.yaml")]


def test_unmapped_hazards_are_reported(tmp_path: Path) -> None:
    assert checked(tmp_path, "hazards: {dfm: {maps: {llama_guard: []}}}") == [
        "p.yaml: hazards.dfm.maps: no other tool's name is mapped to this hazard"
    ]


def test_an_id_close_to_a_canonical_one_is_reported(tmp_path: Path) -> None:
    refusal = '"I can\'t help with that."'
    own = f"{{title: t, description: d, action: block, refusal: {refusal}, maps: {{llama_guard: [S1]}}}}"
    assert checked(tmp_path, f"hazards: {{vcrs: {own}}}") == [
        "p.yaml: hazards.vcrs: not a canonical hazard id; did you mean 'vcr'?"
    ]


def test_overrides_for_unknown_layers_are_legal_but_idle_ones_are_reported(tmp_path: Path) -> None:
    found = checked(tmp_path, "hazards: {vcr: {per_layer: {nobody: escalate, in1: block}}}")
    assert found == ["p.yaml: hazards.vcr.per_layer.in1: repeats `action` and has no effect"]


def test_repeated_principles_and_long_briefs_are_reported(tmp_path: Path) -> None:
    long = "x" * 401
    found = checked(tmp_path, f"brief: {long}\nprinciples: [{{id: a, text: Be kind.}}, {{id: b, text: be kind.}}]")
    assert [line.split(": ")[1] for line in found] == ["brief", "principles[1].text"]


def test_an_attack_is_not_a_hazard(tmp_path: Path) -> None:
    assert "hazards.vcr.kind" in checked(tmp_path, "hazards: {vcr: {kind: attack}}")[0]
