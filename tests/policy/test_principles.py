"""Files in the shapes that others publish; the words in them are our own."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.policy import principles, render

PAIRS = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Name what in the answer could hurt somebody.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take out what could hurt somebody.\n\nRevision:",
    },
    "Second One": {"prompt": ["Is it kind?", "Is it ${HOME} friendly?"], "edit_request": "Make it kind."},
}


def written(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "published.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def complaints(tmp_path: Path, data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        principles.read(written(tmp_path, data))
    return str(caught.value)


def test_critique_and_revision_requests_lose_the_labels_of_their_dialogue(tmp_path: Path) -> None:
    first, *rest = principles.read(written(tmp_path, PAIRS))
    assert (first.id, first.text) == ("harmful0", "Name what in the answer could hurt somebody.")
    assert (first.critique, first.revision) == (first.text, "Take out what could hurt somebody.")
    assert [one.id for one in rest] == ["second_one", "second_one_2"]  # as many principles as wordings


def test_instructions_to_compare_are_read_too(tmp_path: Path) -> None:
    found = principles.read(written(tmp_path, ["\nChoose the kinder answer. Options:", "Choose the safer one."]))
    assert [(one.id, one.text) for one in found] == [
        ("principle_1", "Choose the kinder answer."),
        ("principle_2", "Choose the safer one."),
    ]
    assert all(one.critique is None and one.revision is None for one in found)


@pytest.mark.parametrize("keys", [("critique", "revision"), ("critic", "revision"),
                                  ("critique_request", "revision_request")])  # fmt: skip
def test_keys_of_other_tools_say_the_same(tmp_path: Path, keys: tuple[str, str]) -> None:
    (one,) = principles.read(written(tmp_path, [{keys[0]: "Is it kind?", keys[1]: "Make it kind."}]))
    assert (one.critique, one.revision) == ("Is it kind?", "Make it kind.")


def test_every_entry_that_is_no_principle_is_named(tmp_path: Path) -> None:
    said = complaints(tmp_path, {
        "a": {"prompt": ["Is it kind?"]}, "b": {"prompt": [3], "edit_request": "x"}, "c": 7,
        "d": {"prompt": "Critique:", "edit_request": "x"}, "e": {"prompt": "y", "edit_request": ["x", "z"]},
        "F": "Be kind.", "f": "Be brief.",
    })  # fmt: skip
    for place in (": a.edit_request: missing", ": b.prompt: should be text", ": c: should be", ": d.prompt: should not",
                  ": e.edit_request: should be one", ": f: its id 'f' is taken"):  # fmt: skip
        assert place in said
    assert len(said.splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "line 1"), ("[" * 100_000, "nested too deeply"), ("3", "an object of"), ("[]", "holds no principles")],
)
def test_a_file_that_is_no_constitution_is_refused(tmp_path: Path, text: str, why: str) -> None:
    assert why in complaints(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: no such file"):
        principles.read(tmp_path / "absent.json")


def test_the_policy_made_of_them_is_valid_and_says_the_same(tmp_path: Path) -> None:
    found = principles.read(written(tmp_path, PAIRS))
    path = tmp_path / "policy.yaml"
    path.write_text(principles.as_yaml(found, "published"), encoding="utf-8")
    loaded = policy.load(path)
    assert loaded.principles == found and "${HOME}" in found[2].text
    assert policy.check(loaded) == []
    assert loaded.hazards == policy.load().hazards


def test_a_principle_is_asked_about_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(principles.as_yaml(principles.read(written(tmp_path, PAIRS)), "published"), encoding="utf-8")
    ours = policy.load(path)
    asked = render.critique(ours, "harmful0")
    assert "Name what in the answer could hurt somebody." in asked and "in the light of" not in asked
    assert "Make it kind." in render.revision(ours, "second_one", "harmful0")
