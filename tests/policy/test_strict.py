from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignstack.core.errors import ConfigError
from alignstack.policy import strict


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    mode: Literal["enforce", "shadow"] = "enforce"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    layers: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = {}
    either: Inner | str | None = None


def complaints(data: object, at: str = "") -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return [str(problem) for problem in strict.problems(caught.value, "stack.yaml", Outer, at)]


def failure(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        strict.parse_yaml(text, "f.yaml")
    return str(caught.value)


def test_unknown_key_names_its_path_and_the_nearest_valid_key() -> None:
    assert complaints({"name": "x", "layers": [{}, {"treshold": 0.1}]}) == [
        "stack.yaml: layers[1].treshold: unknown key; did you mean 'threshold'?"
    ]


def test_all_problems_come_at_once_each_with_its_path() -> None:
    data = {"layers": [{"threshold": 7}], "by_name": {"a": {"mode": "enforced"}}, "nam": "x"}
    assert complaints(data) == [
        "stack.yaml: name: missing; this key is required",
        "stack.yaml: layers[0].threshold: should be less than or equal to 1",
        "stack.yaml: by_name.a.mode: should be 'enforce' or 'shadow'; did you mean 'enforce'?",
        "stack.yaml: nam: unknown key; did you mean 'name'?",
    ]


def test_paths_hold_no_names_of_union_members() -> None:
    assert complaints({"name": "x", "either": {"tresh": 1}})[0].startswith("stack.yaml: either.tresh: unknown key")


def test_problems_start_at_the_path_of_the_part_that_was_validated() -> None:
    assert complaints({"name": "x", "layers": 3}, at="layers[2]") == ["stack.yaml: layers[2].layers: should be a list"]


def test_messages_never_quote_values() -> None:
    assert "hunter2" not in "".join(complaints({"name": ["hunter2"], "layers": [{"threshold": "hunter2"}]}))


def test_missing_file_folder_and_empty_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    for path, what in (
        (tmp_path / "no.yaml", "no such file"),
        (tmp_path, "a folder"),
        (tmp_path / "empty.yaml", "empty"),
    ):
        with pytest.raises(ConfigError, match=what) as caught:
            strict.load_yaml(path)
        assert str(path) in str(caught.value)


def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: not UTF-8 text"):
        strict.load_yaml(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert strict.load_yaml(path) == {"a": 1}


@pytest.mark.parametrize(
    "text", ["a: [1\nb: 2\n", "a: 'x\n", "\ta: 1\n", "a: *nowhere\n", "a: !!python/object:os.x 1\n"]
)
def test_broken_yaml_is_reported_with_its_line(text: str) -> None:
    assert failure(text).startswith("f.yaml:")
    assert "not valid YAML" in failure(text)


@pytest.mark.parametrize("text", ["a: \x00\n", "a: 2026-99-99\n", "? [a]\n: {b: 1}\n"])
def test_yaml_that_cannot_be_built_is_an_error_without_traceback(text: str) -> None:
    assert "not valid YAML" in failure(text)


def test_every_repeated_key_is_reported() -> None:
    assert failure("a: 1\nb: {c: 1}\na: 2\nd:\n  e: 1\n  e: 2\n").splitlines() == [
        "f.yaml:3: key 'a' again; it stands on line 1 already",
        "f.yaml:6: key 'e' again; it stands on line 5 already",
    ]


def test_a_key_repeated_on_one_line_is_reported() -> None:
    assert "key 'a' again" in failure("x: {a: 1, a: 2}\n")


def test_merge_keys_still_override() -> None:
    assert strict.parse_yaml("b: &b {x: 1}\nc: {<<: *b, x: 2}\n", "f")["c"] == {"x": 2}


def test_endless_and_exploding_aliases_are_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    for text in ("a: &a [*a]\n", bomb, "[" * 5000):
        assert "nested too deeply" in failure(text)


def test_variables_and_defaults_are_filled_in() -> None:
    data = {"a": "${X}", "b": ["${NO:-d}", "${EMPTY:-d}", "${NO:-}"], "c": "$${X} $5 {x}", "d": 3}
    assert strict.expand_env(data, "f", {"X": "x", "EMPTY": ""}) == {
        "a": "x",
        "b": ["d", "d", ""],
        "c": "${X} $5 {x}",
        "d": 3,
    }


def test_every_missing_variable_is_named_with_its_path() -> None:
    with pytest.raises(ConfigError) as caught:
        strict.expand_env({"model": {"api_key": "${KEY}"}, "layers": [{"x": "${Y}${}"}]}, "s.yaml", {})
    assert [problem.where for problem in caught.value.problems] == [
        "s.yaml: model.api_key",
        "s.yaml: layers[0].x",
        "s.yaml: layers[0].x",
    ]
    assert "'KEY' is not set" in str(caught.value) and "'${' does not start a variable" in str(caught.value)


def test_values_are_not_expanded_twice() -> None:
    assert strict.expand_env("${X}", "f", {"X": "${Y}"}) == "${Y}"
