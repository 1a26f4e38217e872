import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack import policy
from alignstack.training import formats
from alignstack.training.formats import Skip, Wrong, beavertails

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(TEXT, TEXT, st.booleans(), st.dictionaries(st.sampled_from([*beavertails.HAZARDS, "other"]), st.booleans()))
def test_safe_answers_are_learnt(request: str, answer: str, safe: bool, category: dict[str, bool]) -> None:
    row = {"prompt": request, "response": answer, "is_safe": safe, "category": category}
    assert formats.detect(row) == "beavertails"
    (example,) = beavertails.examples(row, "unpaired")
    assert (example.good, example.bad) == ((answer, None) if safe else (None, answer))
    marked = {beavertails.HAZARDS.get(name) for name, is_so in category.items() if is_so} - {None}
    assert example.hazard in marked if marked else example.hazard is None


@given(TEXT, st.sets(TEXT, min_size=2, max_size=2).map(sorted), st.sampled_from([0, 1]), st.sampled_from([0, 1]))
def test_safer_or_more_helpful_is_preferred(request: str, answers: list[str], safer: int, better: int) -> None:
    row = {"prompt": request, "response_0": answers[0], "response_1": answers[1]}
    row |= {"safer_response_id": safer, "better_response_id": better}
    assert formats.detect(row) == "beavertails"
    assert formats.FORMATS["beavertails"].examples(row, "preference")[0].good == answers[safer]
    assert formats.FORMATS["beavertails-helpful"].examples(row, "preference")[0].bad == answers[1 - better]


def test_two_answers_make_two_rows_without_pairs() -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": True, "is_response_1_safe": False}
    assert [(e.good, e.bad) for e in beavertails.examples(row, "unpaired")] == [("a", None), (None, "b")]


def test_same_answer_twice_is_skipped_and_a_wrong_id_named() -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "a", "safer_response_id": 1}
    with pytest.raises(Skip, match="the same"):
        beavertails.examples(row, "preference")
    with pytest.raises(Wrong, match="must be 0 or 1"):
        beavertails.examples(row | {"response_1": "b", "safer_response_id": 2}, "preference")


def test_categories_are_hazards_of_the_policy() -> None:
    assert set(beavertails.HAZARDS.values()) <= set(policy.load(None).hazards)
