"""The cluster bootstrap against theory."""

import numpy as np
import pytest

from alignstack.attribution import bootstrap
from alignstack.attribution.bootstrap import cluster_sums, constant, means, resampled
from alignstack.attribution.intervals import wilson


def test_the_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((4000, 1))
    found = means(values, np.arange(4000), 2000, rng)[0]
    half = 1.96 * values.std() / np.sqrt(4000)
    assert found.low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(values.mean() + half, abs=half * 0.1)


def test_copies_of_a_behaviour_add_no_certainty() -> None:
    """Ten attempts at each of 100 behaviours, all ending alike: as wide as 100 items, not as 1,000."""
    rng = np.random.default_rng(0)
    once = (rng.random((100, 1)) < 0.3).astype(float)
    copies, cluster = np.repeat(once, 10, axis=0), np.repeat(np.arange(100), 10)
    wide = means(copies, cluster, 2000, np.random.default_rng(1))[0]
    single = means(once, np.arange(100), 2000, np.random.default_rng(1))[0]
    assert (wide.low, wide.high, wide.value) == pytest.approx((single.low, single.high, single.value))
    assert wide.n == 1000


def test_clusters_of_different_size_are_weighted_by_their_items() -> None:
    values, cluster = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([7, 7, 7, 3])
    assert cluster_sums(values, cluster).tolist() == [[0.0, 1.0], [3.0, 3.0]]
    assert means(values, cluster, 50, np.random.default_rng(0))[0].value == 0.75


def test_it_covers_the_truth_on_clustered_data() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        behaviours = rng.beta(2, 5, size=80)
        values = (rng.random((80, 6)) < behaviours[:, None]).astype(float).reshape(-1, 1)
        found = means(values, np.repeat(np.arange(80), 6), 300, rng)[0]
        covered += found.low <= 2 / 7 <= found.high
    assert 0.9 < covered / 300 < 0.98


def test_blocks_of_work_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((50, 3))
    whole = resampled(sums, 40, np.random.default_rng(1))
    monkeypatch.setattr(bootstrap, "BLOCK", 7)
    np.testing.assert_allclose(resampled(sums, 40, np.random.default_rng(1)), whole, rtol=1e-5)


def test_what_never_happened_has_an_upper_bound_and_not_certainty() -> None:
    found = means(np.zeros((200, 2)), np.arange(200) // 4, 100, np.random.default_rng(0), floor=np.array([0.0, -1.0]))
    assert [e.upper_bound for e in found] == [True, True]
    assert found[0].low == 0 and found[0].high == wilson(0, 50).high
    assert found[1].low == -wilson(0, 50).high


def test_what_always_happened_is_not_certain_either() -> None:
    found = constant(1.0, 40, 40, 0.0)
    assert (found.low, found.high) == (wilson(40, 40).low, 1.0)


def test_no_items_give_no_knowledge() -> None:
    found = means(np.zeros((0, 1)), np.zeros(0, dtype=int), 10, np.random.default_rng(0))[0]
    assert (found.value, found.low, found.high, found.n) == (0, 0, 1, 0)
