"""Outcomes, blockers and but-for sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.attribution.attribute import attribute
from alignstack.attribution.outcomes import but_for
from tests.attribution import brute, build
from tests.attribution.build import call, manifest, record, row, weights

OFF, ON = (), ("model",)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(0, 4))
def test_but_for_sets_are_all_minimal_sets(seed: int, modifiers: int, vetoes: int) -> None:
    if modifiers + vetoes == 0:
        vetoes = 1
    matrix = build.random_matrix(np.random.default_rng(seed), 6, modifiers, vetoes)
    masks, minimal = but_for(matrix)
    names = matrix.layout.names
    for i in range(matrix.n):
        found = {
            frozenset(name for p, name in enumerate(names) if mask >> p & 1)
            for mask, kept in zip(masks[i].tolist(), minimal[i].tolist(), strict=True)
            if kept
        }
        assert found == brute.minimal_sets(matrix, "safe" if matrix.harmful[i] else "cost", i)


@pytest.mark.parametrize(
    "label, drafts, action, outcome",
    [
        ("harmful", {OFF: "harm", ON: "harm"}, "allow", "harm_delivered"),
        ("harmful", {OFF: "harm", ON: "harm"}, "block", "correct_refusal"),
        ("harmful", {OFF: "harm", ON: "refusal"}, "allow", "correct_refusal"),
        ("harmful", {OFF: "harm", ON: "answer"}, "allow", "correct_answer"),
        ("benign", {OFF: "answer", ON: "answer"}, "allow", "correct_answer"),
        ("benign", {OFF: "answer", ON: "answer"}, "block", "false_refusal"),
        ("benign", {OFF: "answer", ON: "blank"}, "allow", "degraded"),
        ("benign", {OFF: "answer", ON: "unavailable"}, "allow", "unavailable"),
        ("harmful", {OFF: "harm", ON: "unavailable"}, "allow", "unavailable"),
    ],
)
def test_outcomes_are_exclusive(label: str, drafts: dict, action: str, outcome: str) -> None:
    item = record("x", label, drafts=drafts, calls=[call("guard", action)])
    result = attribute([item], manifest(row("guard"), weights()), resamples=10)
    assert result.items[0].outcome == outcome
    assert {name for name, n in result.outcomes.items() if n} == {outcome}


def test_the_first_blocker_is_the_first_that_the_request_meets_whatever_the_order_of_the_file() -> None:
    layers = (row("out", phase="output"), row("in"), weights())
    item = record("x", drafts={OFF: "harm", ON: "refusal"}, calls=[call("out", "block"), call("in", "block")])
    found = attribute([item], manifest(*layers), resamples=10).items[0]
    assert (found.first, found.blockers) == ("in", ("in", "model", "out"))
    assert found.but_for == (("in", "model", "out"),)


def test_overdetermined_blocks_need_all_blockers_removed_and_nothing_less() -> None:
    layers = (row("a"), row("b"), row("c"), weights())
    calls = [call("a", "block"), call("b", "block"), call("c")]
    item = record("x", drafts={OFF: "harm", ON: "harm"}, calls=calls)
    assert attribute([item], manifest(*layers), resamples=10).items[0].but_for == (("a", "b"),)
