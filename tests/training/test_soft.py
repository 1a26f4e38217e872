import math

import pytest

from alignstack.training.soft import soften, turned


def pair(name: str, **more: float) -> dict:
    return {"prompt": name, "chosen": f"{name} +", "rejected": f"{name} -", **more}


def weights(rows: list[dict], name: str) -> tuple[int, int]:
    chosen = [row["chosen"] for row in rows if row["prompt"] == name]
    return chosen.count(f"{name} +"), chosen.count(f"{name} -")


def test_both_orientations_enter_in_proportion() -> None:
    rows = soften([pair("a", confidence=0.75), pair("b", confidence=0.0), pair("c")])
    assert [weights(rows, name) for name in "abc"] == [(3, 1), (0, 4), (4, 0)]


def test_no_more_copies_than_the_proportions_need() -> None:
    assert soften([pair("a"), pair("b")]) == [pair("a"), pair("b")]
    assert weights(soften([pair("a", confidence=0.5), pair("b")]), "b") == (2, 0)


def test_loss_is_that_of_the_soft_label() -> None:
    """p = 0.75, difference of rewards 0.8: 0.75 ln(1 + e^-0.8) + 0.25 ln(1 + e^0.8) = 0.5711."""
    scores = {"a +": 0.8, "a -": 0.0}
    losses = [
        math.log1p(math.exp(scores[r["rejected"]] - scores[r["chosen"]])) for r in soften([pair("a", confidence=0.75)])
    ]
    assert sum(losses) / len(losses) == pytest.approx(0.5711, abs=1e-4)


def test_turned_row_says_the_same() -> None:
    row = pair("a", confidence=0.75, margin=0.5)
    assert turned(row) == {"prompt": "a", "chosen": "a -", "rejected": "a +", "confidence": 0.25, "margin": -0.5}
    assert turned(turned(row)) == row
