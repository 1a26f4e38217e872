import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training import formats
from alignstack.training.formats import Skip, Wrong, hh_rlhf

TEXT = st.from_regex(r"[A-Za-z,.?]+( [a-z,.?]+){0,5}", fullmatch=True)


def transcript(turns: list[str]) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(turns))


@given(st.lists(TEXT, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), TEXT, TEXT)
def test_what_both_share_is_the_prompt(before: list[str], good: str, bad: str) -> None:
    bad += " no" if good == bad else ""
    row = {"chosen": transcript([*before, good]), "rejected": transcript([*before, bad])}
    assert formats.detect(row) == "hh-rlhf"
    (example,) = hh_rlhf.examples(row, "preference")
    assert [turn["content"] for turn in example.prompt] == before
    assert [turn["role"] for turn in example.prompt] == ["user", "assistant", "user", "assistant", "user"][
        : len(before)
    ]
    assert (example.good, example.bad) == (good, bad)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (["a", "b"], ["a", "b"], "the same"),
        (["a", "b"], ["a", ""], "empty turn"),
        (["a", "b", "c", "d"], ["a", "x", "c", "e"], "part before"),
        (["a", "b", "c", "d"], ["a", "e"], "part before"),
    ],
)
def test_pairs_that_teach_nothing_are_skipped(chosen: list[str], rejected: list[str], reason: str) -> None:
    with pytest.raises(Skip, match=reason):
        hh_rlhf.examples({"chosen": transcript(chosen), "rejected": transcript(rejected)}, "preference")


def test_text_without_speakers_is_wrong() -> None:
    with pytest.raises(Wrong, match="Human"):
        hh_rlhf.examples({"chosen": "Yes.", "rejected": "No."}, "preference")
