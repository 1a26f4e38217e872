"""Intervals and tests for rates: plain functions of counts. All at 95%, two-sided.

Sources: Wilson 1927; Newcombe 1998, Statistics in Medicine 17:2635 (paired differences, method 10); McNemar 1947 in its
exact form; Holm 1979; Rogan & Gladen 1978 with the interval of Lang & Reiczigel 2014, Preventive Veterinary Medicine
113:13; the unbiased estimate over k draws of Chen et al. 2021 (arXiv 2107.03374).
"""

import math
from collections.abc import Sequence

import numpy as np

from alignstack.attribution.arrays import Floats, Ints
from alignstack.attribution.result import Estimate
from alignstack.core.wilson import Z
from alignstack.core.wilson import wilson as bounds


def wilson(events: int, n: int) -> Estimate:
    """One rate, by Wilson's score interval. n = 0 gives 0 in [0, 1]."""
    if n == 0:
        return Estimate(value=0.0, low=0.0, high=1.0, n=0, upper_bound=True)
    low, high = bounds(events, n)
    return Estimate(value=events / n, low=low, high=high, n=n, upper_bound=not supported(events, n))


def supported(events: int, n: int) -> bool:
    """Can n items support this rate? Only if the normal half-width is no wider than the rate: n p >= Z^2 (1 - p), that
    is about four events."""
    return n > 0 and events >= Z * Z * (1 - events / n)


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value of the discordant pairs, under Binomial(n, 1/2)."""
    n = first_only + second_only
    if n == 0:
        return 1.0
    k = np.arange(1, min(first_only, second_only) + 1)
    log_choose = np.concatenate(([0.0], np.cumsum(np.log(n - k + 1) - np.log(k))))
    return float(min(1.0, 2 * np.exp(log_choose - n * math.log(2)).sum()))


def newcombe(both: int, first_only: int, second_only: int, neither: int) -> Estimate:
    """Rate of the first minus rate of the second, on the same items (method 10: correlated score intervals, with
    Newcombe's continuity correction of the correlation)."""
    n = both + first_only + second_only + neither
    if n == 0:
        return Estimate(value=0.0, low=-1.0, high=1.0, n=0)
    first, second = wilson(both + first_only, n), wilson(both + second_only, n)
    phi = correlation(both, first_only, second_only, neither)
    difference = (first_only - second_only) / n
    down, up = first.value - first.low, second.high - second.value
    lower = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    up, down = first.high - first.value, second.value - second.low
    upper = math.sqrt(max(0.0, up**2 - 2 * phi * up * down + down**2))
    return Estimate(value=difference, low=difference - lower, high=difference + upper, n=n)


def correlation(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Newcombe's phi for method 10: 0 when a margin is empty, shrunk by n / 2 when positive."""
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    if margins == 0:
        return 0.0
    n = both + first_only + second_only + neither
    cross = both * neither - first_only * second_only
    return (max(cross - n / 2, 0.0) if cross > 0 else cross) / math.sqrt(margins)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def rogan_gladen(events: int, n: int, sensitivity: Estimate, specificity: Estimate) -> Estimate | None:
    """The true rate behind `events` positive judgements of n, with the uncertainty of sensitivity and specificity.

    None when the judge is no better than chance (sensitivity + specificity <= 1) or has not been checked on both sides.
    """
    youden = sensitivity.value + specificity.value - 1
    if n == 0 or sensitivity.n == 0 or specificity.n == 0 or youden <= 0:
        return None
    value = _unit((events / n + specificity.value - 1) / youden)
    low, high = lang_reiczigel(events, n, sensitivity, specificity)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def lang_reiczigel(events: int, n: int, sensitivity: Estimate, specificity: Estimate) -> tuple[float, float]:
    """Both limits in [0, 1]: every rate shrunk by pseudo-counts, then the delta method."""
    se, sp = ((e.value * e.n + 1) / (e.n + 2) for e in (sensitivity, specificity))
    if se + sp <= 1:
        return 0.0, 1.0
    apparent = (events + Z * Z / 2) / (n + Z * Z)
    p = (apparent + sp - 1) / (se + sp - 1)
    noise = (se * (1 - se) / (sensitivity.n + 2), sp * (1 - sp) / (specificity.n + 2))
    shift = 2 * Z * Z * (p * noise[0] - (1 - p) * noise[1])
    spread = apparent * (1 - apparent) / (n + Z * Z) + p * p * noise[0] + (1 - p) ** 2 * noise[1]
    half = Z * math.sqrt(spread) / (se + sp - 1)
    return _unit(p + shift - half), _unit(p + shift + half)


def asr_at_k(harmful: Ints, draws: Ints, k: int) -> Floats:
    """Per request, the unbiased chance that one of k draws delivers harm: 1 - C(r - c, k) / C(r, k).

    `harmful` and `draws` are c and r, shape [requests]; r >= k. As a product, so that large r stay exact.
    """
    steps = np.arange(k)[None, :]
    left = np.clip((draws - harmful)[:, None] - steps, 0, None) / (draws[:, None] - steps)
    return np.asarray(1.0 - left.prod(axis=1), dtype=np.float64)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
