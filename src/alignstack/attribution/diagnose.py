"""Where each failure came from, for all failures at once.

Each list of cases is in the order in which ATTRIBUTION decides: the first that holds is the diagnosis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignstack.attribution.arrays import Bools, Ints, Matrix, any_of
from alignstack.attribution.layout import MODEL, Layout, covers
from alignstack.attribution.outcomes import Deployed
from alignstack.attribution.prices import Prices, prices, released
from alignstack.attribution.result import Diagnosis
from alignstack.core.grid import LayerRow

NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One diagnosis, on F failed items."""

    diagnosis: Diagnosis
    holds: Bools
    """[F]"""
    layer: Ints
    """[F] whom it is about, as an index into `rows`; NOBODY where it is about no layer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Witness:
    """A modifier that creates the failure, on F items: without it the coalition is fine, with it it fails."""

    found: Bools
    """[F]"""
    modifier: Ints
    """[F] which one; the one that can be taken from the full stack, where there is such a one."""
    cell: Ints
    """[F] the cell without it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diagnosed:
    """All failures of one list."""

    items: Ints
    """[F] which items failed."""
    diagnosis: Sequence[Diagnosis]
    """[F]"""
    layer: Sequence[str | None]
    """[F]"""
    witness: Witness
    prices: Prices | None = None
    """Delivered harm only."""
    released: Ints | None = None
    """[F] refusals only: what raising the layer's threshold would let through; -1 where it has none."""


def diagnose_harm(matrix: Matrix, state: Deployed, *, budget: float) -> Diagnosed:
    """`budget`: the share of benign items that a moved threshold may refuse in addition."""
    failed = np.flatnonzero(state.named("harm_delivered", "harm_partial"))
    priced = prices(matrix, failed, refused=state.blockers != 0)
    witness = creators(matrix, failed, harm=True)
    scope = covers(rows(matrix.layout), [matrix.meta.hazard[i] for i in failed.tolist()])
    cases = [
        _judge_disputed(matrix, failed),
        _layer_down(matrix, failed, scope),
        Case(diagnosis="introduced", holds=witness.found, layer=_modifier_rows(matrix.layout, witness)),
        _late_cut(matrix, failed),
        _policy_gap(matrix, failed, scope),
        _evidence_withheld(matrix, failed, scope),
        _threshold(matrix, priced, budget),
        _blind(matrix, failed, scope),
    ]
    return _first(matrix.layout, failed, cases, witness, priced)


def diagnose_refusals(matrix: Matrix, state: Deployed) -> Diagnosed:
    """Benign items that were refused, ruined or not served."""
    failed = np.flatnonzero(~matrix.harmful & state.named("false_refusal", "degraded", "unavailable"))
    plan = matrix.layout
    blockers, model = state.blockers[failed], plan.bit(MODEL) if MODEL in plan.names else 0
    count = np.array([mask.bit_count() for mask in blockers.tolist()], dtype=np.int64)
    by_model = (blockers == model) & (count == 1)
    degraded = state.named("degraded")[failed]
    alone = matrix.refusal[failed, plan.weights_only()] | plan.refusal_as_veto
    witness = creators(matrix, failed, harm=False)
    sole, weights = _rows_of(plan, blockers, count == 1), np.full(len(failed), _row(plan, MODEL))
    cases = [
        Case(diagnosis="judge_disputed", holds=by_model & matrix.disputed[failed], layer=_nobody(failed)),
        Case(diagnosis="unavailable", holds=state.named("unavailable")[failed], layer=sole),
        Case(diagnosis="sole_blocker", holds=(count == 1) & ~by_model, layer=sole),
        Case(diagnosis="joint", holds=count > 1, layer=_nobody(failed)),
        Case(diagnosis="model_refused", holds=by_model & alone, layer=weights),
        Case(
            diagnosis="introduced",
            holds=(by_model | degraded) & witness.found,
            layer=_modifier_rows(plan, witness),
        ),
    ]
    found = _first(plan, failed, cases, witness, None)
    return replace(found, released=released(matrix, failed, found.layer))


def rows(plan: Layout) -> tuple[LayerRow, ...]:
    """Players, then the vetoes in shadow."""
    return (*plan.players, *(plan.vetoes[v] for v in plan.shadow))


def creators(matrix: Matrix, failed: Ints, *, harm: bool) -> Witness:
    """Look for a modifier j and a coalition S without j such that S is fine and S + j is not.

    Vetoes belong to S: one that stops the draft without j but not the one with j makes the pair too. Cells without a
    draft, or ended by a layer that failed closed, are no evidence.
    """
    plan, full = matrix.layout, matrix.layout.full
    found, modifier, cell = np.zeros(len(failed), np.bool_), _nobody(failed), _nobody(failed)
    best = np.zeros(len(failed), dtype=np.int64)
    for j, row in enumerate(plan.modifiers):
        for c in range(plan.cells):
            if c >> j & 1:
                continue
            creates = _creates(matrix, failed, c, c | 1 << j, harm)
            rank = 1 + 2 * (c == full ^ 1 << j) + (row.name != MODEL and not harm)
            better = creates & (rank > best)
            best[better], modifier[better], cell[better] = rank, j, c
            found |= creates
    return Witness(found=found, modifier=modifier, cell=cell)


def _creates(matrix: Matrix, failed: Ints, without: int, joined: int, harm: bool) -> Bools:
    sound = ~(matrix.unavailable[failed, without] | matrix.unavailable[failed, joined])
    ended = matrix.halts[failed, without] & (matrix.modifier_fault[failed, without] > 0)
    sound &= ~any_of(ended, 1)
    if not harm:
        bad = matrix.refusal[failed] | matrix.blank[failed]
        return np.asarray(sound & ~bad[:, without] & bad[:, joined], dtype=np.bool_)
    enforced = list(matrix.layout.enforced)
    meant = matrix.stops[failed, without] & (matrix.fault[failed, without] == 0)
    only_there = any_of((meant & ~matrix.stops[failed, joined])[:, enforced], 1)
    fine = ~matrix.harm[failed, without] | only_there
    return np.asarray(sound & fine & matrix.harm[failed, joined], dtype=np.bool_)


def _judge_disputed(matrix: Matrix, failed: Ints) -> Case:
    human = matrix.human[failed]
    overruled = (human >= 0) & ((human == 1) != matrix.judged[failed])
    return Case(diagnosis="judge_disputed", holds=matrix.disputed[failed] | overruled, layer=_nobody(failed))


def _layer_down(matrix: Matrix, failed: Ints, scope: Bools) -> Case:
    """Failed open. Among several, one that would have caught it on the plain evidence comes first."""
    plan, full = matrix.layout, matrix.layout.full
    down, would = _flags(matrix, failed), _flags(matrix, failed)
    for p, row in enumerate(plan.players):
        v, j = plan.veto(row.name), plan.modifier(row.name)
        if v is not None:
            down[:, p] = (matrix.fault[failed, full, v] > 0) & ~matrix.refuses[failed, full, v]
            would[:, p] = matrix.evidence[failed, v]
        elif j is not None:
            down[:, p] = (matrix.modifier_fault[failed, full, j] > 0) & ~matrix.halts[failed, full, j]
    down &= scope
    return _about_first("layer_down", down, np.argmax(down + 2 * (down & would), axis=1))


def _late_cut(matrix: Matrix, failed: Ints) -> Case:
    flagged = _flags(matrix, failed)
    for p, v in _vetoes(matrix.layout):
        flagged[:, p] = matrix.refuses[failed, matrix.layout.full, v]
    return _about_first("late_cut", flagged, np.argmax(flagged, axis=1))


def _policy_gap(matrix: Matrix, failed: Ints, scope: Bools) -> Case:
    """No enforced layer declares the hazard (limits declare none: they know callers, not contents)."""
    players = len(matrix.layout.players)
    return Case(diagnosis="policy_gap", holds=~any_of(scope[:, :players], 1), layer=_nobody(failed))


def _evidence_withheld(matrix: Matrix, failed: Ints, scope: Bools) -> Case:
    would = _flags(matrix, failed)
    for p, v in _vetoes(matrix.layout):
        would[:, p] = matrix.evidence[failed, v] & ~matrix.refuses[failed, matrix.layout.full, v]
    would &= scope
    return _about_first("evidence_withheld", would, np.argmax(would, axis=1))


def _threshold(matrix: Matrix, priced: Prices, budget: float) -> Case:
    names = [row.name for row in rows(matrix.layout)]
    places = np.array([names.index(row.name) for row in matrix.layout.vetoes], dtype=np.int64)
    cheapest = places[priced.order[:, 0]] if len(places) else np.full(len(priced.extra), NOBODY)
    return Case(diagnosis="threshold", holds=priced.within(budget), layer=cheapest)


def _blind(matrix: Matrix, failed: Ints, scope: Bools) -> Case:
    """In scope, seen and passed: the veto that came closest to blocking; the weights when no veto looked."""
    plan, full = matrix.layout, matrix.layout.full
    closeness = np.full(scope.shape, -np.inf)
    for p, v in _vetoes(plan):
        passed = matrix.looked[failed, full, v] & ~matrix.refuses[failed, full, v] & (plan.vetoes[v].name != MODEL)
        closeness[:, p] = np.where(passed, np.nan_to_num(matrix.score[failed, full, v], nan=0.0), -np.inf)
    if (weights := _row(plan, MODEL)) != NOBODY and not plan.refusal_as_veto:
        closeness[:, weights] = -1.0  # they saw the request and answered it
    closeness[~scope] = -np.inf
    holds = any_of(closeness > -np.inf, 1)
    return Case(
        diagnosis="blind", holds=holds, layer=np.argmax(closeness, axis=1) if closeness.size else _nobody(failed)
    )


def _first(plan: Layout, failed: Ints, cases: Sequence[Case], witness: Witness, priced: Prices | None) -> Diagnosed:
    everyone, names = rows(plan), [case.diagnosis for case in cases] + ["unknown"]
    held = np.stack([case.holds for case in cases] + [np.ones(len(failed), dtype=np.bool_)])
    which = np.argmax(held, axis=0)
    layers = np.stack([case.layer for case in cases] + [_nobody(failed)])
    blamed = layers[which, np.arange(len(failed))]
    return Diagnosed(
        items=failed,
        diagnosis=[names[k] for k in which.tolist()],
        layer=[everyone[p].name if p != NOBODY else None for p in blamed.tolist()],
        witness=witness,
        prices=priced,
    )


def _about_first(diagnosis: Diagnosis, flags: Bools, first: Ints) -> Case:
    return Case(diagnosis=diagnosis, holds=any_of(flags, 1), layer=first)


def _flags(matrix: Matrix, failed: Ints) -> Bools:
    """[F, rows], all False."""
    return np.zeros((len(failed), len(rows(matrix.layout))), dtype=np.bool_)


def _vetoes(plan: Layout) -> list[tuple[int, int]]:
    """(index into `rows`, place on the veto axis) of the enforced vetoes."""
    return [(plan.names.index(plan.vetoes[v].name), v) for v in plan.enforced]


def _nobody(failed: Ints) -> Ints:
    return np.full(len(failed), NOBODY, dtype=np.int64)


def _row(plan: Layout, name: str) -> int:
    return plan.names.index(name) if name in plan.names else NOBODY


def _modifier_rows(plan: Layout, witness: Witness) -> Ints:
    places = np.array([*(plan.names.index(row.name) for row in plan.modifiers), NOBODY], dtype=np.int64)
    return places[witness.modifier]


def _rows_of(plan: Layout, blockers: Ints, single: Bools) -> Ints:
    """[F] the only player in the mask; NOBODY where there are more or none."""
    places = [
        mask.bit_length() - 1 if one else NOBODY for mask, one in zip(blockers.tolist(), single.tolist(), strict=True)
    ]
    return np.array(places, dtype=np.int64)
