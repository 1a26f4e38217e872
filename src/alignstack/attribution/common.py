"""Common-mode failure: do the layers miss the same things?

m_i is how often layer i alone leaves the harm, on the items that the stack with everything off answers; the joint miss
is how often all of them do. kappa = joint / product of m_i; shared difficulty alone makes it exceed 1 (Eckhardt & Lee
1985; Littlewood & Miller 1989), so it is also taken within attack families. Against an attacker who optimises against
the stack the product estimates nothing.
"""

import math

import numpy as np

from alignstack.attribution.arrays import Bools, Floats, Ints, Matrix, all_of, any_of
from alignstack.attribution.bootstrap import cluster_sums, limits, resampled
from alignstack.attribution.intervals import wilson
from alignstack.attribution.result import CommonMode, Estimate, MissRatio
from alignstack.attribution.shares import Game, safety


def common_mode(
    matrix: Matrix, items: Bools, resamples: int, rng: np.random.Generator, attack: str | None = None
) -> CommonMode:
    """On the chosen harmful items; those that the reference stack does not answer are left out."""
    answered = items & matrix.harm[:, 0]
    names = looking(matrix, answered)
    misses = alone(safety(matrix, answered), names)
    n, joint = len(misses), all_of(misses, 1) if names else np.zeros(len(misses), dtype=np.bool_)
    product = float(np.prod(misses.mean(axis=0))) if n and names else None
    kappa = _kappa(misses, joint, matrix.meta.cluster[answered], resamples, rng) if product else None
    n_eff = effective_layers(misses, joint)
    return CommonMode(
        attack=attack,
        n=n,
        misses={name: wilson(int(misses[:, i].sum()), n) for i, name in enumerate(names)},
        joint_miss=wilson(int(joint.sum()), n),
        product=product,
        kappa=kappa,
        n_eff=n_eff,
        pairs=_pairs(misses, names),
        note=_note(n, names, misses, joint),
    )


def looking(matrix: Matrix, items: Bools) -> tuple[str, ...]:
    """Players that gave an opinion, or failed to, on any of the items: those that abstain everywhere cannot miss."""
    tried = any_of(matrix.looked[items] | (matrix.fault[items] > 0), (0, 1))
    plan = matrix.layout
    return tuple(name for name in plan.names if (v := plan.veto(name)) is None or tried[v])


def alone(game: Game, names: tuple[str, ...]) -> Bools:
    """[N, layers] the harm goes through when only this layer is on."""
    columns = [game.passes(game.layout.bit(name)) for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((len(game.base), 0), dtype=np.bool_)


def _kappa(misses: Bools, joint: Bools, cluster: Ints, resamples: int, rng: np.random.Generator) -> Estimate:
    sums = cluster_sums(np.column_stack((misses, joint)).astype(float), cluster)
    draws = resampled(sums, resamples, rng)
    rates = draws[:, :-1] / draws[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = limits(rates[:, -1] / rates[:, :-1].prod(axis=1))
    n, product = len(misses), float(np.prod(misses.mean(axis=0)))
    value = float(joint.mean()) / product
    if not joint.any():  # the bootstrap cannot see what never happened
        high = wilson(0, len(sums)).high / product
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, upper_bound=not joint.any())


def effective_layers(misses: Bools, joint: Bools) -> float | None:
    """n_eff = ln joint / mean ln m_i; None where a logarithm does not exist or no layer ever catches anything."""
    if not joint.any():
        return None
    mean = float(np.log(misses.mean(axis=0)).mean())
    return math.log(float(joint.mean())) / mean if mean < 0 else None


def _pairs(misses: Bools, names: tuple[str, ...]) -> tuple[MissRatio, ...]:
    count = misses.astype(float)
    together: Floats = count.T @ count
    return tuple(
        MissRatio(first=first, second=names[j], ratio=_ratio(together, i, j, len(misses)))
        for i, first in enumerate(names)
        for j in range(i + 1, len(names))
    )


def _ratio(together: Floats, i: int, j: int, n: int) -> float | None:
    expected = together[i, i] * together[j, j]
    return float(together[i, j] * n / expected) if expected else None


def _note(n: int, names: tuple[str, ...], misses: Bools, joint: Bools) -> str:
    if n == 0:
        return "the reference stack answers none of these items, so there is nothing to miss"
    if not names:
        return "no layer looked at these items"
    never = [name for i, name in enumerate(names) if not misses[:, i].any()]
    if never:
        return f"{', '.join(never)} missed none of {n}: no ratio of miss rates exists"
    if not joint.any():
        return f"no item of {n} was missed by all layers: kappa is an upper bound and n_eff has no finite value"
    if misses.all():
        return "no layer catches anything alone: n_eff has no value"
    return ""
