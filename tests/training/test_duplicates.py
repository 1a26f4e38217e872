import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training.duplicates import GRAM, HeldOut, jaccard, repeated
from alignstack.training.split import content_words, neighbours

WORDS = "plum fig date lime pear quince melon cherry olive almond".split()
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), max_size=25)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_nothing_is_missed_by_looking_at_rare_words_only(texts: list[str], threshold: float) -> None:
    """Against brute force: a row goes when an earlier row that stays is near."""
    gone: list[bool] = []
    for i, text in enumerate(texts):
        stays = [j for j in range(i) if not gone[j]]
        near = [jaccard(content_words(text), content_words(texts[j])) >= threshold for j in stays]
        gone.append(any(near))
    assert repeated([[text] for text in texts], threshold) == gone


@given(TEXTS, TEXTS)
def test_twins_are_those_of_the_slow_search(texts: list[str], held_out: list[str]) -> None:
    found = HeldOut(held_out)
    assert [found.twin([text]) for text in texts] == [bool(near) for near in neighbours(texts, held_out)]


def test_every_part_has_to_be_near() -> None:
    request = "Plum fig date lime pear"
    rows = [[request, "yes olive"], [request, "no almond"], [request.lower(), "Yes, olive!"]]
    assert repeated(rows) == [False, False, True]


def test_texts_without_content_words_are_compared_whole() -> None:
    assert repeated([["Why not?"], ["why not"], ["Who is it?"], ["讲个故事"], ["讲个笑话"]]) == [
        False,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(("n", "found"), [(GRAM - 1, False), (GRAM, True)])
def test_eight_words_in_a_row_are_an_overlap(n: int, found: bool) -> None:
    held_out = "one two three four five six seven eight nine ten"
    text = f"Well, {', '.join(held_out.upper().split()[:n])} and the rest."
    assert HeldOut([held_out]).overlaps([text]) is found


def test_planted_repetitions_are_found_among_many_rows() -> None:
    """3,000 rows of Zipf words: rare chance repetitions, and every planted one."""
    rng = random.Random(0)
    weights = [1 / rank for rank in range(1, 3001)]
    names = [f"w{i}" for i in range(3000)]
    rows = [" ".join(rng.choices(names, weights, k=12)) for _ in range(3_000)]
    gone = repeated([[row] for row in [*rows, *rows[:100]]])
    assert all(gone[3_000:]) and sum(gone[:3_000]) < 30
