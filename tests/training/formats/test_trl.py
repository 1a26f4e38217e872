import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training import formats
from alignstack.training.formats import Wrong, trl

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@given(TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3), st.booleans())
def test_any_conversation_is_read(request: str, answer: str, before: list[tuple[str, str]], system: bool) -> None:
    said = [turn("system", "Be brief.")] if system else []
    said += [each for pair in before for each in (turn("user", pair[0]), turn("assistant", pair[1]))]
    row = {"messages": [*said, turn("user", request), turn("assistant", answer)]}
    assert formats.detect(row) == "trl"
    (example,) = trl.examples(row, "sft")
    assert list(example.prompt) == row["messages"][:-1] and example.good == answer


@given(TEXT, TEXT, TEXT, st.booleans(), st.booleans())
def test_any_pair_is_read(request: str, good: str, bad: str, listed: bool, implicit: bool) -> None:
    if good.strip() == bad.strip():
        bad = good + " not"
    sides = [[turn("user", request)] * implicit + [turn("assistant", side)] for side in (good, bad)]
    prompt = [turn("user", request)] if listed else request
    row = dict(zip(("chosen", "rejected"), sides if listed or implicit else (good, bad), strict=True))
    row |= {} if implicit else {"prompt": prompt}
    assert formats.detect(row) == "trl"
    (example,) = trl.examples(row, "preference")
    assert (example.prompt[0]["content"], example.good, example.bad) == (request, good, bad)


def test_texts_that_begin_alike_share_a_prompt() -> None:
    (example,) = trl.examples({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "preference")
    assert (example.prompt[0]["content"], example.good, example.bad) == ("The sky is", "blue.", "green.")


@pytest.mark.parametrize(("label", "found"), [(True, ("y", None)), (False, (None, "y"))])
def test_label_says_whether_the_completion_is_to_be_learnt(label: bool, found: tuple[str | None, str | None]) -> None:
    (example,) = trl.examples({"prompt": "x", "completion": "y", "label": label}, "unpaired")
    assert (example.good, example.bad) == found


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": [turn("user", "a"), turn("user", "b")]}, "messages.1..role"),
        ({"messages": [turn("user", "a")]}, "must end with a turn of the assistant"),
        ({"messages": [turn("user", " "), turn("assistant", "b")]}, "is empty"),
        ({"messages": [turn("usr", "a")]}, "did you mean 'user'"),
        ({"messages": [{"role": "user", "contents": "a"}]}, "has no 'content'; found 'contents'"),
        ({"messages": "hello"}, "list of turns"),
        ({"prompt": "a", "chosen": "b", "rejected": "b "}, "are the same"),
        ({"prompt": "a", "chosen": "b"}, "has no 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": [turn("assistant", "c")]}, "both"),
        ({"chosen": "one", "rejected": "other"}, "begin with"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "true"),
        ({"prompt": "a", "completion": "\ud800"}, "surrogate"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "'margin' must be a finite number"),
    ],
)
def test_what_is_wrong_is_said(row: dict, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        trl.examples(row, "sft")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
        max_leaves=6,
    ),
    st.sampled_from(sorted({key for form in formats.FORMATS.values() for key in form.KEYS})),
    st.sampled_from(sorted({key for form in formats.FORMATS.values() for key in form.KEYS})),
    st.sampled_from(sorted(formats.FORMATS)),
    st.sampled_from(["sft", "preference", "unpaired", "prompts"]),
)
def test_garbage_is_refused_in_words(value: object, key: str, other: str, name: str, kind: formats.Kind) -> None:
    row = {key: value, other: value}
    try:
        formats.detect(row)
        formats.FORMATS[name].examples(row, kind)
    except (formats.Wrong, formats.Skip) as complaint:
        assert str(complaint)


def test_misspelt_key_is_named() -> None:
    with pytest.raises(Wrong, match="'promt'; did you mean 'prompt'"):
        formats.detect({"promt": "a", "completoin": "b"})
