"""Stack files: what they make, and every way in which they can be wrong."""

import os
from pathlib import Path

import pytest

from alignstack.core.errors import ConfigError
from alignstack.engine.config import load_stack

GOOD = """
model: {use: scripted, default: fine, reference: {use: scripted, default: base}}
judge: {use: keyword, patterns: [HARMFUL]}
layers:
  - {use: keyword, name: out1, phase: output, patterns: [bad]}
  - {use: system_prompt}
  - {use: keyword, patterns: [phishing], mode: shadow, on_error: allow, timeout_ms: 50, hazards: [ncr], max_chars: 9}
"""


def write(folder: Path, text: str, name: str = "stack.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> dict[str, str]:
    """Path inside the file → what is wrong there."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_stack(path)
    return {problem.where.removeprefix(f"{path}: "): problem.what for problem in caught.value.problems}


def test_layers_come_in_the_order_a_request_meets_them(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, GOOD))
    assert [placed.name for placed in stack.layers] == ["keyword", "system_prompt", "model", "out1"]
    assert stack.modifiers() == ("system_prompt", "model")
    assert [judge.name for judge in stack.judges] == ["keyword"]


def test_keys_of_the_engine_reach_the_placed_layer(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    placed = load_stack(path).placed("keyword")
    assert (placed.mode, placed.on_error, placed.timeout_s) == ("shadow", "allow", 0.05)
    assert (placed.info.scope.hazards, placed.info.scope.max_chars) == (frozenset({"ncr"}), 9)
    assert placed.where == f"{path}: layers[2]"


def test_all_problems_are_reported_at_once_with_their_paths(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
modle: {}
model: {use: scriptd}
race: perhaps
window: 0
on_block: explode
sampling: {temprature: 1, top_p: 2}
layers:
  - {use: keyword, patern: [x]}
  - {use: keyword, name: b, patterns: [x], mode: enforced, timeout_ms: -1, on_error: ignore}
  - {use: keyword, name: b, patterns: "x", hazards: [ncrr], phase: outptu}
  - {use: nothing_like_it}
  - {name: c}
  - just text
  - {use: system_prompt, name: model}
judge: {use: keyword, patterns: [x], strict: true}
""",
    )
    expected = {
        "modle": "did you mean 'model'",
        "model.use": "did you mean 'scripted'",
        "race": "bool",
        "window": "greater than or equal to 1",
        "on_block": "'refusal' or 'error'",
        "sampling.temprature": "did you mean 'temperature'",
        "sampling.top_p": "less than or equal to 1",
        "layers[0].patern": "did you mean 'patterns'",
        "layers[0].patterns": "required",
        "layers[1].mode": "did you mean 'enforce'",
        "layers[1].timeout_ms": "greater than 0",
        "layers[1].on_error": "'block' or 'allow'",
        "layers[2].name": "layers[1] already",
        "layers[2].patterns": "list",
        "layers[2].hazards[0]": "did you mean 'ncr'",
        "layers[2].phase": "did you mean 'output'",
        "layers[3].use": "no layer 'nothing_like_it'",
        "layers[4].use": "missing; valid: ",
        "layers[5]": "mapping",
        "layers[6].name": "the weights",
        "judge.strict": "unknown key",
    }
    assert expected.keys() <= found.keys()
    for where, what in expected.items():
        assert what in found[where], (where, found[where])


def test_a_misspelt_common_key_is_recognised(tmp_path: Path) -> None:
    text = "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], timeot_ms: 5}]"
    assert "did you mean 'timeout_ms'" in problems(tmp_path, text)["layers[0].timeot_ms"]


def test_a_model_is_required(tmp_path: Path) -> None:
    assert problems(tmp_path, "layers: []") == {"model": "missing; this key is required"}


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {use: scripted, replies: gone.jsonl}\npolicy: gone.yaml")
    with pytest.raises(ConfigError) as caught:
        load_stack(path)
    assert {Path(problem.where).name for problem in caught.value.problems} == {"gone.jsonl", "gone.yaml"}


def test_missing_variables_are_named(tmp_path: Path) -> None:
    assert "'NO_SUCH_NAME'" in problems(tmp_path, "model: {use: scripted, default: '${NO_SUCH_NAME}'}")["model.default"]


def test_a_missing_variable_is_the_problem_and_not_what_its_place_looks_like_without_it(tmp_path: Path) -> None:
    text = "model: {use: openai_http, base_url: '${NO_HOST}${NO_PORT}', model: m}\nlayer: []\n"
    with pytest.raises(ConfigError) as caught:
        load_stack(write(tmp_path, text))
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [
        "model.base_url: environment variable 'NO_HOST' is not set; set it, or write ${NO_HOST:-default}",
        "model.base_url: environment variable 'NO_PORT' is not set; set it, or write ${NO_PORT:-default}",
        "layer: unknown key; did you mean 'layers'?",
    ]


def test_a_judge_that_is_no_mapping_is_reported_in_plain_words(tmp_path: Path) -> None:
    assert problems(tmp_path, "model: {use: scripted}\njudge: 3\nrace: perhaps\n") == {
        "judge": "should be a mapping (`key: value` lines)",
        "race": "should be a boolean, true or false",
    }


def test_an_empty_list_of_patterns_is_reported_in_plain_words(tmp_path: Path) -> None:
    text = "model: {use: scripted}\nlayers: [{use: keyword, patterns: []}]\n"
    assert problems(tmp_path, text) == {"layers[0].patterns": "should not be empty"}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"model: [", b"- 1\n- 2", b"just text", b"model: {use: scripted}\nmodel: 1", b"\x00"],
)
def test_files_that_are_no_stack_give_config_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stack.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_stack(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["gone.yaml", "."])
def test_a_stack_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file|folder"):
        load_stack(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "model: {use: 3}",
        "model: {use: [a]}",
        "model: {use: {a: b}}",
        "model: null",
        "model: {use: scripted, reference: 5}",
        "model: {use: scripted, reference: {use: scripted, reference: {use: scripted}}}",
        "model: {use: scripted}\nlayers: 5",
        "model: {use: scripted}\nlayers: {use: keyword}",
        "model: {use: scripted}\nlayers: [[]]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], hazards: 5}]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], name: [a]}]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], name: ''}]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], 5: 6}]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], timeout_ms: .nan}]",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], timeout_ms: .inf}]",
        "model: {use: scripted}\nlayers: [{use: system_prompt, max_chars: 5}]",
        "model: {use: scripted}\njudge: []",
        "model: {use: scripted}\njudge: keyword",
        "model: {use: scripted}\njudge: [{use: keyword, patterns: [a]}, {use: keyword, patterns: [b]}]",
        "model: {use: scripted}\npolicy: 5",
        "model: {use: scripted}\nsampling: 5",
        "model: {use: scripted}\nrefusal: ''",
        "model: {use: scripted}\nlayers: [{use: keyword, patterns: [x], phase: tool_call}]",
        "5: 6\nmodel: {use: scripted}",
    ],
)
def test_hostile_stacks_give_config_errors(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_the_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    same = load_stack(write(here, GOOD)).fingerprint
    assert load_stack(write(there, GOOD, "other.yaml")).fingerprint == same
    assert load_stack(write(there, GOOD.replace("phishing", "fishing"))).fingerprint != same
    assert load_stack(write(there, GOOD.replace("mode: shadow", "mode: enforce"))).fingerprint != same
    assert load_stack(write(there, GOOD + "streaming: true\n")).fingerprint != same


def test_secrets_stay_out_of_configuration_and_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'model: {use: openai_http, base_url: "http://127.0.0.1:9/v1", model: m, api_key: "${SOME_KEY}"}'
    path = write(tmp_path, text)
    fingerprints = set()
    for secret in ("hunter2", "hunter3"):
        monkeypatch.setitem(os.environ, "SOME_KEY", secret)
        stack = load_stack(path)
        fingerprints.add(stack.fingerprint)
        assert "hunter" not in repr(stack.config)
    assert stack.config["model"]["api_key"] == "${SOME_KEY}"
    assert len(fingerprints) == 1


def test_a_policy_file_changes_refusal_and_fingerprint(tmp_path: Path) -> None:
    plain = load_stack(write(tmp_path, GOOD))
    write(tmp_path, "extends: built-in\nname: other\n", "policy.yaml")
    other = load_stack(write(tmp_path, GOOD + "policy: policy.yaml\nrefusal: No way.\n"))
    assert other.fingerprint != plain.fingerprint
    assert plain.refusal.startswith("I can't help with that.")
    assert other.refusal == "No way."


def test_a_judge_must_not_be_the_model_under_test(tmp_path: Path) -> None:
    model = "{use: scripted, default: fine}"
    found = problems(tmp_path, f"model: {model}\njudge: {{use: rubric, model: {model}}}")
    assert "model under test" in found["judge"]


def test_a_layer_with_a_threshold_declares_it() -> None:
    declared = {placed.name: placed.threshold for placed in load_stack(None).layers}
    assert {name: value for name, value in declared.items() if value is not None} == {
        "classifier": 0.5,
        "output_classifier": 0.5,
    }


def test_the_built_in_stack_has_the_promised_layers() -> None:
    stack = load_stack(None)
    names = ["rate_limit", "keyword", "classifier", "system_prompt", "model", "output_classifier"]
    assert [placed.name for placed in stack.layers] == names
    assert stack.source == "built-in"
    assert load_stack(stack.source).fingerprint == stack.fingerprint
    assert stack.reference is not None
    assert stack.judges
