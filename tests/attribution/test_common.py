"""Common-mode failure: independent, redundant and degenerate layers."""

import math

import numpy as np
import pytest

from alignstack.attribution.arrays import Matrix, from_arrays
from alignstack.attribution.common import common_mode
from alignstack.attribution.layout import layout
from tests.attribution import build


def guards(stops: np.ndarray, **facts) -> Matrix:
    """Vetoes on harmful items that the reference answers; `stops`: [N, V]."""
    n, vetoes = stops.shape
    none = np.zeros((n, 1), dtype=bool)
    plan = layout(build.manifest(*(build.row(f"v{i}") for i in range(vetoes))))
    verdicts = stops[:, None, :]
    return from_arrays(
        plan, build.meta(n), harmful=~none[:, 0], harm=~none, refusal=none, stops=verdicts, refuses=verdicts, **facts
    )


def measured(matrix: Matrix):
    return common_mode(matrix, matrix.harmful, 400, np.random.default_rng(0))


def test_independent_layers_have_kappa_one_and_count_fully() -> None:
    found = measured(guards(np.random.default_rng(0).random((40_000, 3)) < [0.3, 0.5, 0.6]))
    assert found.kappa is not None and found.kappa.low < 1 < found.kappa.high
    assert found.n_eff == pytest.approx(3, abs=0.05)
    assert [pair.ratio for pair in found.pairs] == pytest.approx([1, 1, 1], abs=0.03)


def test_copies_of_one_layer_count_as_one() -> None:
    once = np.random.default_rng(0).random((2000, 1)) < 0.7
    found = measured(guards(np.repeat(once, 3, axis=1)))
    miss = 1 - once.mean()
    assert found.n_eff == pytest.approx(1)
    assert found.kappa is not None and found.kappa.value == pytest.approx(1 / miss**2)
    assert found.pairs[0].ratio == pytest.approx(1 / miss)


def test_shared_difficulty_alone_makes_misses_correlate_and_strata_show_it() -> None:
    """Eckhardt and Lee: two families, in each of which the layers are independent."""
    rng = np.random.default_rng(0)
    hard = np.arange(20_000) % 2 == 0
    matrix = guards(rng.random((20_000, 2)) < np.where(hard, 0.2, 0.9)[:, None])
    whole = measured(matrix)
    within = [common_mode(matrix, matrix.harmful & part, 200, rng, "family") for part in (hard, ~hard)]
    assert whole.kappa is not None and whole.kappa.low > 1.4
    for stratum in within:
        assert stratum.kappa is not None and stratum.kappa.low < 1.02 < 1.3 and stratum.kappa.high > 0.98


def test_kappas_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(150):
        found = common_mode(
            (matrix := guards(rng.random((400, 2)) < 0.6)),
            matrix.harmful,
            200,
            np.random.default_rng(rng.integers(2**32)),
        )
        covered += found.kappa is not None and found.kappa.low <= 1 <= found.kappa.high
    assert 0.88 < covered / 150 <= 1


def test_numbers_that_do_not_exist_are_none_with_a_reason() -> None:
    perfect = measured(guards(np.array([[True, False], [True, True]])))
    assert (perfect.kappa, perfect.n_eff, perfect.product) == (None, None, 0)
    assert "v0 missed none of 2" in perfect.note
    disjoint = measured(guards(np.array([[True, False], [False, True]] * 50)))
    assert disjoint.kappa is not None and disjoint.kappa.value == 0 and disjoint.kappa.upper_bound
    assert disjoint.n_eff is None and math.isfinite(disjoint.kappa.high) and "upper bound" in disjoint.note
    useless = measured(guards(np.zeros((5, 2), dtype=bool)))
    assert useless.n_eff is None and "no layer catches anything" in useless.note


def test_items_that_the_reference_does_not_answer_are_left_out() -> None:
    matrix = build.random_matrix(np.random.default_rng(0), 200, 2, 2)
    found = common_mode(matrix, matrix.harmful, 50, np.random.default_rng(0))
    assert found.n == int((matrix.harmful & matrix.harm[:, 0]).sum())


def test_a_modifier_misses_when_it_alone_leaves_the_harm() -> None:
    matrix = build.random_matrix(np.random.default_rng(0), 200, 2, 1)
    found = common_mode(matrix, matrix.harmful, 50, np.random.default_rng(0))
    answered = matrix.harmful & matrix.harm[:, 0]
    for j, row in enumerate(matrix.layout.modifiers):
        assert found.misses[row.name].value == pytest.approx(matrix.harm[answered, 1 << j].mean())


def test_a_layer_that_never_looked_is_left_out() -> None:
    looked = np.ones((10, 1, 2), dtype=bool)
    looked[:, :, 1] = False
    found = measured(guards(np.random.default_rng(0).random((10, 2)) < 0.5, looked=looked))
    assert list(found.misses) == ["v0"]


def test_nothing_to_miss_is_said() -> None:
    matrix = guards(np.ones((3, 1), dtype=bool))
    found = common_mode(matrix, np.zeros(3, dtype=bool), 10, np.random.default_rng(0))
    assert found.n == 0 and found.kappa is None and "nothing to miss" in found.note
