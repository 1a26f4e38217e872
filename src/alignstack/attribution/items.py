"""One result per item of the audit."""

from collections.abc import Sequence

import numpy as np

from alignstack.attribution.arrays import Matrix
from alignstack.attribution.diagnose import diagnose_harm, diagnose_refusals
from alignstack.attribution.evidence import Failure, facts
from alignstack.attribution.fixes import fixes, side
from alignstack.attribution.layout import Layout
from alignstack.attribution.outcomes import Deployed, but_for
from alignstack.attribution.result import OUTCOMES, ItemResult

NO_SETS: tuple[tuple[str, ...], ...] = ()


def item_results(matrix: Matrix, state: Deployed, *, budget: float) -> tuple[ItemResult, ...]:
    """In the order of the run. `budget` as in `attribute`."""
    blockers = _Names(matrix.layout)
    sets = _sets(matrix, blockers)
    masks, outcomes, varies = state.blockers.tolist(), state.outcome.tolist(), state.varies.tolist()
    failures = _failures(matrix, [blockers.of(mask) for mask in masks], sets, state, budget)
    meta, labels = matrix.meta, matrix.harmful.tolist()
    results = []
    for i, mask in enumerate(masks):
        names = blockers.of(mask)
        failure = failures.get(i)
        results.append(
            ItemResult(
                id=meta.id[i],
                trace=meta.trace[i],
                label="harmful" if labels[i] else "benign",
                hazard=meta.hazard[i],
                attack=meta.attack[i],
                outcome=OUTCOMES[outcomes[i]],
                first=names[0] if names else None,
                blockers=names,
                but_for=sets[i],
                diagnosis=failure.diagnosis if failure else None,
                layer=failure.layer if failure else None,
                side=side(failure) if failure else None,
                stochastic=varies[i],
                evidence=facts(failure) if failure else (),
                cheapest=failure.prices[0] if failure and failure.prices else None,
                prices=failure.prices if failure else (),
                fixes=fixes(failure) if failure else (),
            )
        )
    return tuple(results)


class _Names:
    """Masks as names, in the order in which a request meets the layers; the same mask is spelt out once."""

    def __init__(self, plan: Layout) -> None:
        self._order = [(plan.bit(name), name) for name in plan.met()]
        self._known: dict[int, tuple[str, ...]] = {}

    def of(self, mask: int) -> tuple[str, ...]:
        if mask not in self._known:
            self._known[mask] = tuple(name for bit, name in self._order if mask & bit)
        return self._known[mask]


def _sets(matrix: Matrix, names: _Names) -> list[tuple[tuple[str, ...], ...]]:
    """[N] the minimal but-for sets, smallest first; none when the bad thing goes through already."""
    masks, minimal = but_for(matrix)
    known: dict[tuple[int, ...], tuple[tuple[str, ...], ...]] = {}
    found = []
    for row in np.where(minimal, masks, -1).tolist():
        key = tuple(row)
        if key not in known:
            kept = [mask for mask in key if mask != -1]
            known[key] = NO_SETS if 0 in kept else tuple(sorted((names.of(m) for m in kept), key=len))
        found.append(known[key])
    return found


def _failures(
    matrix: Matrix,
    blockers: Sequence[tuple[str, ...]],
    sets: Sequence[tuple[tuple[str, ...], ...]],
    state: Deployed,
    budget: float,
) -> dict[int, Failure]:
    found, harmful_items = {}, int((matrix.harmful & matrix.usable).sum())
    for diagnosed in (diagnose_harm(matrix, state, budget=budget), diagnose_refusals(matrix, state)):
        for f, i in enumerate(diagnosed.items.tolist()):
            found[i] = Failure(
                matrix=matrix,
                item=i,
                diagnosis=diagnosed.diagnosis[f],
                layer=diagnosed.layer[f],
                blockers=blockers[i],
                but_for=sets[i],
                modifier=int(diagnosed.witness.modifier[f]),
                cell=int(diagnosed.witness.cell[f]),
                prices=diagnosed.prices.of(f) if diagnosed.prices else (),
                released=int(diagnosed.released[f]) if diagnosed.released is not None else -1,
                harmful_items=harmful_items,
            )
    return found
