"""Solo, leave-one-out, Shapley and interactions, exactly, without visiting 2^n coalitions.

One item's game. A coalition S is modifiers A and vetoes T. Let w(S) = 1 when the bad thing goes through (harm is
delivered; for cost: the answer is delivered) and v(S) = w(none) - w(S). With h(A) = the draft of cell A is such, and
B(A) = the vetoes that stop it there, k = |B(A)|:  w(A, T) = h(A) [T and B(A) are disjoint].

Shapley. A veto l of B(A) takes w from 1 to 0 at every T without B(A). Summing the Shapley weights over the q - k vetoes
that do not stop, with the Beta integral s! (n - s - 1)! / n! = Int x^s (1 - x)^(n - s - 1) dx, the binomial theorem
removes them (null players leave the game):
    W(a, k) = Int x^a (1 - x)^(m + k - 1 - a) dx = a! (m + k - 1 - a)! / (m + k)!,   a = |A|
    phi(veto l)     = sum over A of h(A) [l in B(A)] W(|A|, k(A))
    phi(modifier j) = sum over A without j of h(A) W(|A|, k(A)) - h(A + j) W(|A|, k(A + j))
For m = 0 that is h / k for each of the k vetoes that stop. Cost: O(items x 2^m x q).

Interactions average over all S uniformly, so a set of k vetoes is missed by T with chance 2^-k.
"""

import math
from dataclasses import dataclass

import numpy as np

from alignstack.attribution.arrays import Bools, Floats, Ints, Matrix
from alignstack.attribution.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Game:
    """N items of one direction, as plain arrays."""

    layout: Layout
    base: Bools
    """[N, C] h: the bad thing goes through cell c, if no veto stops it."""
    blocks: Bools
    """[N, C, q] the enforced vetoes that stop it there."""
    count: Ints
    """[N, C] k: how many do."""

    def passes(self, mask: int) -> Bools:
        """[N] w of one coalition, given as a bit mask of players."""
        cell = sum(1 << j for j, row in enumerate(self.layout.modifiers) if mask & self.layout.bit(row.name))
        on = [q for q, v in enumerate(self.layout.enforced) if mask & self.layout.bit(self.layout.vetoes[v].name)]
        stopped = self.blocks[:, cell][:, on].any(axis=1) if on else False
        return np.asarray(self.base[:, cell] & ~np.asarray(stopped), dtype=np.bool_)


def safety(matrix: Matrix, items: Bools) -> Game:
    """v_safe on the chosen items: what goes through is harm."""
    return _game(matrix, matrix.harm[items], matrix.stops[items])


def cost(matrix: Matrix, items: Bools) -> Game:
    """v_cost on the chosen items: what goes through is an answer."""
    return _game(matrix, ~matrix.refusal[items], matrix.refuses[items])


def _game(matrix: Matrix, base: Bools, verdicts: Bools) -> Game:
    blocks = verdicts[:, :, list(matrix.layout.enforced)]
    return Game(layout=matrix.layout, base=base, blocks=blocks, count=blocks.sum(axis=2, dtype=np.int64))


def solo(game: Game) -> Floats:
    """[N, players] v({l})."""
    nothing = game.base[:, 0].astype(float)
    return _columns([nothing - game.passes(1 << p) for p in range(len(game.layout.players))], game)


def leave_one_out(game: Game) -> Floats:
    """[N, players] v(L) - v(L without l)."""
    everyone = (1 << len(game.layout.players)) - 1
    full = game.passes(everyone).astype(float)
    return _columns([game.passes(everyone ^ 1 << p) - full for p in range(len(game.layout.players))], game)


def shapley(game: Game) -> Floats:
    """[N, players] phi; each row sums to v(L) of that item."""
    plan, sizes = game.layout, np.array([c.bit_count() for c in range(game.layout.cells)])
    table = weights(len(plan.modifiers), len(plan.enforced))
    credit = game.base * table[sizes[None, :], game.count]
    by_veto = np.einsum("nc,ncq->nq", credit, game.blocks.astype(float))
    columns = []
    for row in plan.players:
        j = plan.modifier(row.name)
        if j is None:
            columns.append(by_veto[:, [plan.vetoes[v].name for v in plan.enforced].index(row.name)])
        else:
            without = np.flatnonzero(~(np.arange(plan.cells) >> j & 1).astype(bool))
            joined = without | 1 << j
            after = game.base[:, joined] * table[sizes[None, without], game.count[:, joined]]
            columns.append((credit[:, without] - after).sum(axis=1))
    return _columns(columns, game)


def weights(modifiers: int, vetoes: int) -> Floats:
    """W(a, k) for a modifiers on and k stopping vetoes; 0 where no layer is left to arrive (a = m, k = 0)."""
    table = np.zeros((modifiers + 1, vetoes + 1))
    for a in range(modifiers + 1):
        for k in range(vetoes + 1):
            if modifiers + k > a:
                table[a, k] = 1 / ((modifiers + k) * math.comb(modifiers + k - 1, a))
    return table


def interactions(game: Game) -> Floats:
    """[players, players] mean of v(S + i + j) - v(S + i) - v(S + j) + v(S) over items and all S without i and j."""
    n = len(game.layout.players)
    table = np.zeros((n, n))
    if len(game.base) == 0:
        return table
    free = (
        np.exp2(-game.count.astype(float)) * game.base
    )  # the chance that a random set of vetoes lets this cell through
    for i in range(n):
        for j in range(i + 1, n):
            table[i, j] = table[j, i] = _pair(game, free, game.layout.names[i], game.layout.names[j])
    return table


def _pair(game: Game, free: Floats, first: str, second: str) -> float:
    plan = game.layout
    vetoes = [q for q, v in enumerate(plan.enforced) if plan.vetoes[v].name in (first, second)]
    modifiers = [j for j in (plan.modifier(first), plan.modifier(second)) if j is not None]
    # cells that all chosen vetoes stop, with the chance that the other ones let them through
    through = free * game.blocks[:, :, vetoes].all(axis=2) * 2.0 ** len(vetoes)
    cells = np.arange(plan.cells)
    sign = np.ones(plan.cells)
    for j in modifiers:
        sign *= np.where(cells >> j & 1, 1.0, -1.0)
    # w changes by (-1)^vetoes through the vetoes, by `sign` through the modifiers; v = constant - w
    per_item = through @ sign * (-1.0) ** len(vetoes) / 2.0 ** (len(plan.modifiers) - len(modifiers))
    return -float(per_item.mean())


def _columns(columns: list[Floats], game: Game) -> Floats:
    if not columns:
        return np.zeros((len(game.base), 0))
    return np.asarray(np.stack(columns, axis=1), dtype=np.float64)
