"""Closed forms against every one of the 2^n coalitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.attribution import shares
from tests.attribution import brute, build

games = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(0, 5)).filter(
    lambda x: 0 < x[1] + x[2] <= 8
)


def both(matrix):
    everything = np.ones(matrix.n, dtype=bool)
    return {"safe": shares.safety(matrix, everything), "cost": shares.cost(matrix, everything)}


@settings(max_examples=60, deadline=None)
@given(games)
def test_three_numbers_equal_brute_force_on_random_stacks(case: tuple[int, int, int]) -> None:
    seed, modifiers, vetoes = case
    matrix = build.random_matrix(np.random.default_rng(seed), 6, modifiers, vetoes)
    names = matrix.layout.names
    everyone = frozenset(names)
    for direction, game in both(matrix).items():
        v = brute.values(matrix, direction)
        solo, leave_one_out, phi = shares.solo(game), shares.leave_one_out(game), shares.shapley(game)
        for p, name in enumerate(names):
            np.testing.assert_array_equal(solo[:, p], v[frozenset({name})])
            np.testing.assert_array_equal(leave_one_out[:, p], v[everyone] - v[everyone - {name}])
            np.testing.assert_allclose(phi[:, p], brute.shapley(v, names, name), atol=1e-12, rtol=0)
        np.testing.assert_allclose(phi.sum(axis=1), v[everyone], atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(games)
def test_interactions_equal_brute_force(case: tuple[int, int, int]) -> None:
    seed, modifiers, vetoes = case
    matrix = build.random_matrix(np.random.default_rng(seed), 6, modifiers, vetoes)
    names = matrix.layout.names
    for direction, game in both(matrix).items():
        v, table = brute.values(matrix, direction), shares.interactions(game)
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                if i != j:
                    assert table[i, j] == pytest.approx(brute.interaction(v, first, second).mean(), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_vetoes_on_a_fixed_draft_share_the_catch_equally(seed: int, vetoes: int) -> None:
    """phi_l = E[h b_l / k]."""
    matrix = build.random_matrix(np.random.default_rng(seed), 20, 0, vetoes)
    phi = shares.shapley(both(matrix)["safe"])
    caught = matrix.stops[:, 0] & matrix.harm[:, :1]
    expected = caught / np.maximum(caught.sum(axis=1, keepdims=True), 1)
    order = [matrix.layout.names.index(r.name) for r in matrix.layout.vetoes]
    np.testing.assert_allclose(phi[:, order], expected, atol=1e-12)


def test_a_modifier_that_creates_harm_gets_negative_credit() -> None:
    plan = build.layout(build.manifest(build.row("prompt", "modifier", "prompt"), build.row("veto")))
    matrix = build.from_arrays(
        plan,
        build.meta(1),
        harmful=np.array([True]),
        harm=np.array([[False, True]]),
        refusal=np.zeros((1, 2), dtype=bool),
        stops=np.array([[[False], [True]]]),
        refuses=np.array([[[False], [True]]]),
    )
    phi = shares.shapley(both(matrix)["safe"])[0]
    assert phi == pytest.approx([-0.5, 0.5])


def test_a_copy_of_a_layer_halves_its_shapley_value_and_changes_no_safety() -> None:
    def stack(copies: int):
        plan = build.layout(build.manifest(*(build.row(f"v{i}") for i in range(copies))))
        stops = np.repeat(np.array([[[True]], [[False]]]), copies, axis=2)
        none = np.zeros((2, 1), dtype=bool)
        matrix = build.from_arrays(
            plan, build.meta(2), harmful=~none[:, 0], harm=~none, refusal=none, stops=stops, refuses=stops
        )
        return shares.shapley(both(matrix)["safe"]).mean(axis=0)

    assert stack(1) == pytest.approx([0.5])
    assert stack(2) == pytest.approx([0.25, 0.25])


def test_two_copies_of_a_layer_are_redundant_and_two_halves_of_a_lock_complement_each_other() -> None:
    rng = np.random.default_rng(0)
    matrix = build.random_matrix(rng, 1, 0, 2)
    copies = shares._game(matrix, np.ones((1, 1), dtype=bool), np.ones((1, 1, 2), dtype=bool))
    assert shares.interactions(copies)[0, 1] == -1
    pair = build.random_matrix(rng, 1, 2, 0)
    lock = shares._game(pair, np.array([[True, True, True, False]]), np.zeros((1, 4, 0), dtype=bool))
    assert shares.interactions(lock)[0, 1] == 1
