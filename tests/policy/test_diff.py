from pathlib import Path

import pytest

from alignstack import policy


@pytest.fixture
def changed(tmp_path: Path) -> policy.Policy:
    path = tmp_path / "p.yaml"
    path.write_text("extends: built-in\nname: mine\nhazards: {sxc: {action: allow, per_layer: {out1: block}}}\n")
    return policy.load(path)


def test_a_policy_does_not_differ_from_itself() -> None:
    assert policy.diff(policy.load(), policy.load()) == []


def test_changes_are_typed_and_named_by_path(changed: policy.Policy) -> None:
    found = policy.diff(policy.load(), changed)
    assert [(change.path, change.kind, change.old, change.new) for change in found] == [
        ("name", "changed", "alignstack-default", "mine"),
        ("hazards.sxc.action", "changed", "block", "allow"),
        ("hazards.sxc.per_layer.out1", "added", None, "block"),
    ]
    assert str(found[1]) == "~ hazards.sxc.action: 'block' → 'allow'"


def test_the_way_back_removes_what_the_way_there_added(changed: policy.Policy) -> None:
    assert "- hazards.sxc.per_layer.out1: 'block'" in map(str, policy.diff(changed, policy.load()))


def test_principles_are_matched_by_id() -> None:
    old = policy.load()
    first, second, *rest = old.principles
    edited = policy.Principle(id=second.id, text="New words.")
    new = old.model_copy(update={"principles": (edited, *rest)})
    found = policy.diff(old, new)
    assert {(change.path, change.kind) for change in found} == {
        (f"principles[{first.id}]", "removed"),
        (f"principles[{second.id}].text", "changed"),
    }


def test_a_new_order_of_principles_is_one_change() -> None:
    old = policy.load()
    new = old.model_copy(update={"principles": old.principles[::-1]})
    assert [change.path for change in policy.diff(old, new)] == ["principles"]


def test_a_principles_own_requests_count(tmp_path: Path) -> None:
    row = "extends: built-in\nprinciples: [{id: kind, text: Be kind., revision: %s}]\n"
    loaded = []
    for name, words in (("a", "Make it kind."), ("b", "Make it kinder.")):
        path = tmp_path / name
        path.write_text(row % words)
        loaded.append(policy.load(path))
    assert [change.path for change in policy.diff(*loaded)] == ["principles[kind].revision"]
