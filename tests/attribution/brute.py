"""The definitions, word for word, over all 2^n coalitions: slow, obvious, and independent of the closed forms."""

import itertools
import math

import numpy as np


def passes(matrix, direction: str, coalition: frozenset[str]) -> np.ndarray:
    """[N] the harm is delivered (`safe`), or the answer is (`cost`)."""
    plan = matrix.layout
    cell = sum(1 << j for j, row in enumerate(plan.modifiers) if row.name in coalition)
    through = matrix.harm[:, cell].copy() if direction == "safe" else ~matrix.refusal[:, cell]
    verdicts = matrix.stops if direction == "safe" else matrix.refuses
    for v, row in enumerate(plan.vetoes):
        if row.name in coalition:
            through &= ~verdicts[:, cell, v]
    return through


def values(matrix, direction: str) -> dict[frozenset[str], np.ndarray]:
    """v(S) per item, for all S."""
    names = matrix.layout.names
    subsets = [frozenset(s) for size in range(len(names) + 1) for s in itertools.combinations(names, size)]
    nothing = passes(matrix, direction, frozenset()).astype(float)
    return {s: nothing - passes(matrix, direction, s) for s in subsets}


def shapley(v: dict[frozenset[str], np.ndarray], names: tuple[str, ...], player: str) -> np.ndarray:
    n = len(names)
    return sum(
        math.factorial(len(s)) * math.factorial(n - len(s) - 1) / math.factorial(n) * (v[s | {player}] - v[s])
        for s in v
        if player not in s
    )


def interaction(v: dict[frozenset[str], np.ndarray], i: str, j: str) -> np.ndarray:
    sets = [s for s in v if i not in s and j not in s]
    return sum(v[s | {i, j}] - v[s | {i}] - v[s | {j}] + v[s] for s in sets) / len(sets)


def minimal_sets(matrix, direction: str, item: int) -> set[frozenset[str]]:
    """Minimal R such that the item goes through once R is removed from the full stack."""
    names = frozenset(matrix.layout.names)
    working = [
        frozenset(removed)
        for size in range(len(names) + 1)
        for removed in itertools.combinations(sorted(names), size)
        if passes(matrix, direction, names - frozenset(removed))[item]
    ]
    return {r for r in working if not any(other < r for other in working)}
