import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training import formats
from alignstack.training.formats import Skip, Wrong, ultrafeedback

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@given(TEXT, st.dictionaries(TEXT.map(str.strip), st.integers(1, 10), min_size=2, max_size=4))
def test_best_stands_against_worst(request: str, rated: dict[str, int]) -> None:
    completions = [{"response": text, "overall_score": score} for text, score in rated.items()]
    row = {"instruction": request, "completions": completions}
    assert formats.detect(row) == "ultrafeedback"
    if len(set(rated.values())) == 1:
        with pytest.raises(Skip, match="not rated higher"):
            ultrafeedback.examples(row, "preference")
        return
    (example,) = ultrafeedback.examples(row, "preference")
    assert rated[str(example.good)] == max(rated.values()) and rated[str(example.bad)] == min(rated.values())
    assert example.margin == max(rated.values()) - min(rated.values())


@given(TEXT, TEXT, TEXT, st.integers(1, 5), st.integers(1, 5))
def test_binarised_rows_carry_a_margin(request: str, good: str, bad: str, better: int, worse: int) -> None:
    bad += "!" if good.strip() == bad.strip() else ""
    sides = [[{"role": "user", "content": request}, {"role": "assistant", "content": text}] for text in (good, bad)]
    row = {"prompt": request, "chosen": sides[0], "rejected": sides[1]}
    row |= {"score_chosen": worse + better, "score_rejected": worse}
    assert formats.detect(row) == "ultrafeedback"
    (example,) = ultrafeedback.examples(row, "preference")
    assert (example.good, example.bad, example.margin) == (good, bad, better)


def test_aspects_count_more_than_the_overall_score() -> None:
    """Of the raw set: some overall scores are ten times too high."""
    answers = [
        {
            "response": "short",
            "overall_score": 80.0,
            "annotations": {"honesty": {"Rating": "2"}, "truth": {"Rating": "1"}},
        },
        {
            "response": "full",
            "overall_score": 8.5,
            "annotations": {"honesty": {"Rating": "5"}, "truth": {"Rating": "4"}},
        },
    ]
    (example,) = ultrafeedback.examples({"instruction": "Explain tides.", "completions": answers}, "preference")
    assert (example.good, example.margin) == ("full", 3.0)


def test_score_that_is_no_number_is_wrong() -> None:
    answers = [{"response": "a", "overall_score": "high"}, {"response": "b", "overall_score": 3}]
    with pytest.raises(Wrong, match="overall_score"):
        ultrafeedback.examples({"instruction": "Explain tides.", "completions": answers}, "preference")
