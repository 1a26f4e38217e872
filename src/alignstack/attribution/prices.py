"""What it would cost to catch a miss: lower one threshold to the item's score, count whom else that would refuse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignstack.attribution.arrays import Bools, Floats, Ints, Matrix
from alignstack.attribution.intervals import wilson
from alignstack.attribution.layout import covers
from alignstack.attribution.result import Price

IMPOSSIBLE = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """For F items with delivered harm and all V vetoes, those in shadow too."""

    matrix: Matrix
    extra: Ints
    """[F, V] benign items refused that the stack does not refuse already; IMPOSSIBLE where no threshold helps."""
    threshold: Floats
    """[F, V] the item's score; NaN where the veto does not score and would block as it is."""
    order: Ints
    """[F, V] vetoes by price; enforced ones first among equals, then stack order."""
    benign: int
    """How many benign items there are."""

    def within(self, budget: float) -> Bools:
        """[F] is the cheapest price at most this share of the benign items? Never without benign items."""
        if self.benign == 0 or self.extra.shape[1] == 0:
            return np.zeros(len(self.extra), dtype=np.bool_)
        return np.asarray(self.extra.min(axis=1) <= budget * self.benign, dtype=np.bool_)

    def of(self, f: int) -> tuple[Price, ...]:
        """All thresholds that stop item f, cheapest first; none when there are no benign items to price them with."""
        if self.benign == 0:
            return ()
        extra, threshold = self.extra[f].tolist(), self.threshold[f].tolist()
        return tuple(
            Price(
                layer=self.matrix.layout.vetoes[v].name,
                shadow=self.matrix.layout.vetoes[v].mode == "shadow",
                threshold=None if threshold[v] != threshold[v] else threshold[v],
                extra_refusals=extra[v],
                rate=wilson(extra[v], self.benign),
            )
            for v in self.order[f].tolist()
            if extra[v] != IMPOSSIBLE
        )


def prices(matrix: Matrix, failed: Ints, refused: Bools) -> Prices:
    """`failed`: [F] items with delivered harm; `refused`: [N] by the full stack.

    A layer qualifies when the item's hazard is in its scope, it scored the deployed bytes above 0 (no threshold reaches
    a score of 0) and it does not flag the item already; one in shadow also when it would block as it is.
    """
    plan, full = matrix.layout, matrix.layout.full
    spared = ~matrix.harmful & matrix.usable & ~refused
    extra = np.full((len(failed), len(plan.vetoes)), IMPOSSIBLE, dtype=np.int64)
    score, flagged = matrix.score[failed, full], matrix.refuses[failed, full]
    scope = covers(plan.vetoes, [matrix.meta.hazard[i] for i in failed.tolist()])
    for v, row in enumerate(plan.vetoes):
        shadow = row.mode == "shadow"
        others = matrix.score[spared, full, v]
        others = np.sort(others[others > 0])
        refusals = len(others) - np.searchsorted(others, score[:, v], side="left")
        possible = scope[:, v] & (score[:, v] > 0) & (shadow | ~flagged[:, v])
        extra[possible, v] = refusals[possible]
        as_it_is = scope[:, v] & np.isnan(score[:, v]) & flagged[:, v] if shadow else np.zeros(len(failed), np.bool_)
        extra[as_it_is, v] = matrix.refuses[spared, full, v].sum()
    rank = np.array(
        [v + len(plan.vetoes) * (row.mode == "shadow") for v, row in enumerate(plan.vetoes)], dtype=np.int64
    )
    order = np.lexsort((np.broadcast_to(rank, extra.shape), extra), axis=1)
    benign = int((~matrix.harmful & matrix.usable).sum())
    return Prices(matrix=matrix, extra=extra, threshold=score, order=order, benign=benign)


def released(matrix: Matrix, failed: Ints, layer: Sequence[str | None]) -> Ints:
    """[F] harm let through, were this layer's threshold raised just above the item's score: harmful items with no
    higher score that it alone stops. -1 where the layer is no veto, has no threshold or does not score the item."""
    plan, full = matrix.layout, matrix.layout.full
    stops = matrix.stops[:, full, list(plan.enforced)] & (matrix.harm[:, full] & matrix.usable)[:, None]
    alone = stops.sum(axis=1) == 1
    names = np.array([name or "" for name in layer], dtype=np.str_)
    through = np.full(len(failed), -1, dtype=np.int64)
    for q, v in enumerate(plan.enforced):
        if plan.vetoes[v].threshold is None:
            continue
        mine = np.flatnonzero(names == plan.vetoes[v].name)
        score = matrix.score[failed[mine], full, v]
        caught = np.sort(matrix.score[alone & stops[:, q], full, v])
        through[mine] = np.where(np.isnan(score), -1, np.searchsorted(caught, score, side="right"))
    return through
