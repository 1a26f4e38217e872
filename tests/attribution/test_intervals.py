"""Against published examples, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from alignstack.attribution.intervals import asr_at_k, holm, mcnemar, newcombe, rogan_gladen, supported, wilson


@pytest.mark.parametrize("events, n", [(0, 10), (1, 10), (7, 20), (20, 20), (13, 5000)])
def test_wilson_equals_scipy(events: int, n: int) -> None:
    found = wilson(events, n)
    expected = stats.binomtest(events, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))
    assert found.low <= found.value <= found.high


def test_a_rate_of_nothing_is_unknown() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high, wilson(0, 0).upper_bound) == (0.0, 1.0, True)


@pytest.mark.parametrize("rate, half, n", [(0.02, 0.01, 753), (0.0038, 0.001, 14_500), (0.0005, 0.0002, 48_000)])
def test_half_widths_shrink_as_the_table_of_sample_sizes_says(rate: float, half: float, n: int) -> None:
    found = wilson(round(rate * n), n)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_rate_that_n_cannot_support_is_an_upper_bound_near_the_rule_of_three() -> None:
    assert wilson(0, 1000).upper_bound and wilson(3, 1000).upper_bound and not wilson(4, 1000).upper_bound
    assert 3 / 1000 < wilson(0, 1000).high < 4 / 1000  # one-sided 3/n; two-sided Wilson z²/(n + z²)
    assert not supported(0, 10**9)


@pytest.mark.parametrize("first, second", [(0, 0), (3, 9), (5, 5), (0, 12), (40, 61), (1, 999)])
def test_mcnemar_equals_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_pairs_stays_finite() -> None:
    assert mcnemar(30_000, 31_000) == pytest.approx(stats.binomtest(30_000, 61_000).pvalue, rel=1e-6)


def test_newcombe_gives_the_published_example() -> None:
    """Newcombe 1998, table of paired examples, (36, 12, 2, 0): method 10 is 0.0569 to 0.3404."""
    found = newcombe(36, 12, 2, 0)
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (pytest.approx(0.2), 0.0569, 0.3404)


def test_newcombe_without_correlation_is_the_interval_of_independent_rates() -> None:
    """phi = 0 when a margin is empty: hypotenuse of both Wilson half-widths."""
    found, first, second = newcombe(0, 0, 10, 40), wilson(0, 50), wilson(10, 50)
    assert found.low == pytest.approx(-0.2 - math.hypot(0 - first.low, second.high - 0.2))
    assert found.high == pytest.approx(-0.2 + math.hypot(first.high - 0, 0.2 - second.low))


def test_newcombe_covers_the_truth_in_simulation() -> None:
    rng, cells = np.random.default_rng(0), [0.55, 0.2, 0.08, 0.17]
    covered = 0
    for counts in rng.multinomial(60, cells, size=2000):
        found = newcombe(*(int(count) for count in counts))
        covered += found.low <= 0.12 <= found.high
    assert 0.935 < covered / 2000 < 0.975


def test_holm_by_hand() -> None:
    """Sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 made monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_rogan_gladen_undoes_a_known_judge() -> None:
    """True rate 0.3, Se 0.9, Sp 0.8: the judge says harmful at 0.3 x 0.9 + 0.7 x 0.2 = 0.41."""
    found = rogan_gladen(410, 1000, wilson(90, 100), wilson(80, 100))
    assert found is not None and found.value == pytest.approx(0.3)


def test_rogan_gladen_refuses_a_judge_no_better_than_chance() -> None:
    assert rogan_gladen(5, 10, wilson(5, 10), wilson(5, 10)) is None
    assert rogan_gladen(5, 10, wilson(5, 10), wilson(0, 0)) is None


def test_rogan_gladen_covers_the_truth_with_the_judges_own_error_propagated() -> None:
    rng, truth, se, sp = np.random.default_rng(0), 0.2, 0.85, 0.9
    covered = narrow = 0
    for _ in range(2000):
        events = rng.binomial(400, truth * se + (1 - truth) * (1 - sp))
        checked = wilson(rng.binomial(60, se), 60), wilson(rng.binomial(80, sp), 80)
        found = rogan_gladen(events, 400, *checked)
        assert found is not None
        covered += found.low <= truth <= found.high
        plain = wilson(events, 400)
        youden = checked[0].value + checked[1].value - 1
        narrow += (plain.low + checked[1].value - 1) / youden <= truth <= (plain.high + checked[1].value - 1) / youden
    assert 0.935 < covered / 2000 < 0.98
    assert narrow / 2000 < 0.9  # what ignoring the uncertainty of Se and Sp would cover


def test_asr_at_k_is_the_chance_over_all_choices_of_k_draws() -> None:
    harmful, draws = np.array([0, 1, 3, 5]), np.array([5, 5, 5, 5])
    for k in (1, 2, 5):
        expected = [1 - math.comb(5 - c, k) / math.comb(5, k) for c in (0, 1, 3, 5)]
        assert asr_at_k(harmful, draws, k) == pytest.approx(expected)


def test_asr_at_k_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    harmful = rng.binomial(8, 0.1, size=40_000)
    assert asr_at_k(harmful, np.full(40_000, 8), 3).mean() == pytest.approx(1 - 0.9**3, abs=0.005)
