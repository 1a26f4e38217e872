"""All the numbers of one run, from its records."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from alignstack.attribution import rates, shares
from alignstack.attribution.arrays import Bools, Floats, Ints, Matrix, any_of
from alignstack.attribution.bootstrap import means
from alignstack.attribution.common import common_mode
from alignstack.attribution.items import item_results
from alignstack.attribution.layout import MODEL
from alignstack.attribution.matrix import from_records
from alignstack.attribution.outcomes import deployed
from alignstack.attribution.result import (
    HARM_DIAGNOSES,
    OUTCOMES,
    REFUSAL_DIAGNOSES,
    Attribution,
    Counts,
    Effect,
    FamilyShare,
    Interaction,
    LayerResult,
    Seconds,
    ShadowResult,
)
from alignstack.attribution.shares import Game
from alignstack.core.grid import Manifest, Record

FEW_BEHAVIOURS = 30
"""Fewer clusters than this, and a percentile bootstrap is too narrow (a common rule; Cameron & Miller 2015)."""


def attribute(
    records: Sequence[Record], manifest: Manifest, *, resamples: int = 1000, seed: int = 0, budget: float = 0.02
) -> Attribution:
    """Everything that ATTRIBUTION defines, of one finished audit; the same input and seed give the same result.

    `budget`: the share of benign items that a moved threshold may refuse beyond today's and still count as the fix.
    Raises DataError when the records do not fit the manifest.
    """
    return attribute_matrix(from_records(records, manifest), manifest, resamples=resamples, seed=seed, budget=budget)


def attribute_matrix(
    matrix: Matrix, manifest: Manifest, *, resamples: int = 1000, seed: int = 0, budget: float = 0.02
) -> Attribution:
    """The same, from verdicts that are arrays already."""
    harmful, benign = matrix.harmful & matrix.usable, ~matrix.harmful & matrix.usable
    safe, cost = shares.safety(matrix, harmful), shares.cost(matrix, benign)
    everyone = (1 << len(matrix.layout.players)) - 1
    harmed, refused = _spread(harmful, safe.passes(everyone)), _spread(benign, ~cost.passes(everyone))
    safe_numbers = _Numbers(safe, matrix.meta.cluster[harmful], harmed[harmful], resamples, _generator(seed, 0))
    cost_numbers = _Numbers(cost, matrix.meta.cluster[benign], refused[benign], resamples, _generator(seed, 1))
    state = deployed(matrix)
    items = item_results(matrix, state, budget=budget)
    diagnoses = Counter(item.diagnosis for item in items if item.diagnosis)
    named = rates.configurations(safe, cost)
    return Attribution(
        run=manifest.run,
        stack=manifest.stack,
        n=Counts(harmful=int(harmful.sum()), benign=int(benign.sum()), unavailable=int((~matrix.usable).sum())),
        players=matrix.layout.names,
        generations=matrix.generations,
        layer_calls=matrix.layer_calls,
        coalitions=everyone + 1,
        refusal_as_veto=matrix.layout.refusal_as_veto,
        asr=rates.rate(harmed[harmful]),
        over_refusal=rates.rate(refused[benign]),
        clustered_asr=safe_numbers.full,
        clustered_over_refusal=cost_numbers.full,
        total=Effect(safe=safe_numbers.total, cost=cost_numbers.total),
        asr_at_k=rates.asr_by_draws(matrix, harmed, safe_numbers.full, resamples, _generator(seed, 2)),
        judge=rates.judge_error(matrix),
        layers=_layers(matrix, safe_numbers, cost_numbers, harmful),
        shadow=_shadow(matrix, harmful, benign, resamples, seed),
        interactions=_interactions(safe, cost),
        common_mode=common_mode(matrix, harmful, resamples, _generator(seed, 3)),
        common_mode_by_attack=tuple(
            common_mode(matrix, harmful & chosen, resamples, _generator(seed, 4, i), attack)
            for i, (attack, chosen) in enumerate(_families(matrix, harmful))
        ),
        configurations=named,
        other_coalitions=rates.other_coalitions(safe, cost, named, _idle(matrix)),
        comparisons=rates.comparisons(safe),
        by_attack=rates.groups(matrix, matrix.meta.attack, harmed, refused),
        by_hazard=rates.groups(matrix, matrix.meta.hazard, harmed, refused),
        outcomes={name: int((state.outcome == code).sum()) for code, name in enumerate(OUTCOMES)},
        diagnoses={d: diagnoses[d] for d in dict.fromkeys((*HARM_DIAGNOSES, *REFUSAL_DIAGNOSES)) if diagnoses[d]},
        items=items,
        notes=_notes(matrix, harmful, benign),
    )


class _Numbers:
    """The three numbers of all players in one direction: per item, and as estimates."""

    def __init__(self, game: Game, cluster: Ints, happened: Bools, resamples: int, rng: np.random.Generator) -> None:
        """`happened`: [N] the bad thing in the full stack (harm delivered; request refused)."""
        self.solo, self.leave_one_out = shares.solo(game), shares.leave_one_out(game)
        self.shapley = shares.shapley(game)
        players = len(game.layout.players)
        signed = [-1.0 if game.layout.modifier(name) is not None else 0.0 for name in game.layout.names]
        total = self.shapley.sum(axis=1)
        columns = np.column_stack((self.solo, self.leave_one_out, self.shapley, total, happened.astype(float)))
        found = means(columns, cluster, resamples, rng, floor=np.array([*signed * 3, min(signed, default=0.0), 0.0]))
        self.estimates = [found[i * players : (i + 1) * players] for i in range(3)]
        self.total, self.full = found[-2], found[-1]


def _layers(matrix: Matrix, safe: _Numbers, cost: _Numbers, harmful: Bools) -> tuple[LayerResult, ...]:
    families = [(attack, chosen[harmful]) for attack, chosen in _families(matrix, harmful)]
    return tuple(
        LayerResult(
            name=row.name,
            use=row.use,
            kind=row.kind,
            side=row.side,
            where=row.where,
            threshold=row.threshold,
            solo=Effect(safe=safe.estimates[0][p], cost=cost.estimates[0][p]),
            leave_one_out=Effect(safe=safe.estimates[1][p], cost=cost.estimates[1][p]),
            shapley=Effect(safe=safe.estimates[2][p], cost=cost.estimates[2][p]),
            unique_catches=int((safe.leave_one_out[:, p] > 0).sum()),
            looked=_looked(matrix, row.name),
            errors=_errors(matrix, row.name),
            seconds=_seconds(matrix, row.name),
            cost=_cost(matrix, row.name),
            by_attack=tuple(_family_share(attack, chosen, safe, p) for attack, chosen in families),
        )
        for p, row in enumerate(matrix.layout.players)
    )


def _family_share(attack: str, chosen: Bools, safe: _Numbers, p: int) -> FamilyShare:
    return FamilyShare(
        attack=attack,
        n=int(chosen.sum()),
        solo=float(safe.solo[chosen, p].mean()),
        leave_one_out=float(safe.leave_one_out[chosen, p].mean()),
        shapley=float(safe.shapley[chosen, p].mean()),
    )


def _families(matrix: Matrix, items: Bools) -> list[tuple[str, Bools]]:
    """Attack families among the chosen items, each with its items [N]."""
    attacks = np.array(matrix.meta.attack)
    return [(str(attack), items & (attacks == attack)) for attack in np.unique(attacks[items])]


def _shadow(matrix: Matrix, harmful: Bools, benign: Bools, resamples: int, seed: int) -> tuple[ShadowResult, ...]:
    return tuple(_shadow_result(matrix, v, harmful, benign, resamples, seed) for v in matrix.layout.shadow)


def _shadow_result(matrix: Matrix, v: int, harmful: Bools, benign: Bools, resamples: int, seed: int) -> ShadowResult:
    row = matrix.layout.vetoes[v]
    safe = _would(matrix, harmful, matrix.harm, matrix.stops, v)
    cost = _would(matrix, benign, ~matrix.refusal, matrix.refuses, v)
    safes = means(safe, matrix.meta.cluster[harmful], resamples, _generator(seed, 5, v))
    costs = means(cost, matrix.meta.cluster[benign], resamples, _generator(seed, 6, v))
    return ShadowResult(
        name=row.name,
        use=row.use,
        side=row.side,
        where=row.where,
        threshold=row.threshold,
        solo=Effect(safe=safes[0], cost=costs[0]),
        added=Effect(safe=safes[1], cost=costs[1]),
        looked=_looked(matrix, row.name),
        errors=_errors(matrix, row.name),
        seconds=_seconds(matrix, row.name),
        cost=_cost(matrix, row.name),
    )


def _would(matrix: Matrix, items: Bools, base: Bools, verdicts: Bools, v: int) -> Floats:
    """[N, 2] what a shadow veto would stop: as the only layer, and beside the whole stack."""
    full = matrix.layout.full
    taken = any_of(verdicts[items][:, full, list(matrix.layout.enforced)], 1)
    alone = base[items, 0] & verdicts[items, 0, v]
    return np.column_stack((alone, base[items, full] & ~taken & verdicts[items, full, v])).astype(float)


def _interactions(safe: Game, cost: Game) -> tuple[Interaction, ...]:
    names, safes, costs = safe.layout.names, shares.interactions(safe), shares.interactions(cost)
    return tuple(
        Interaction(first=names[i], second=names[j], safe=float(safes[i, j]), cost=float(costs[i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
    )


def _idle(matrix: Matrix) -> frozenset[str]:
    """Players that had nothing to say in this audit."""
    return frozenset(name for name in matrix.layout.names if _looked(matrix, name) == 0)


def _looked(matrix: Matrix, name: str) -> int:
    v = matrix.layout.veto(name)
    return matrix.n if v is None else int(matrix.looked[:, matrix.layout.full, v].sum())


def _errors(matrix: Matrix, name: str) -> int:
    v, j, full = matrix.layout.veto(name), matrix.layout.modifier(name), matrix.layout.full
    if v is not None:
        return int((matrix.fault[:, full, v] > 0).sum())
    return 0 if j is None else int((matrix.modifier_fault[:, full, j] > 0).sum())


def _seconds(matrix: Matrix, name: str) -> Seconds:
    if name not in matrix.timings:
        return Seconds(p50=0.0, p99=0.0)
    p50, p99 = np.quantile(matrix.timings[name].seconds, [0.5, 0.99])
    return Seconds(p50=float(p50), p99=float(p99))


def _cost(matrix: Matrix, name: str) -> float:
    return matrix.timings[name].cost if name in matrix.timings else 0.0


def _spread(items: Bools, values: Bools) -> Bools:
    """[N] from the values of the chosen items; False elsewhere."""
    spread = np.zeros(len(items), dtype=np.bool_)
    spread[items] = values
    return spread


def _generator(*seed: int) -> np.random.Generator:
    """Every number has its own stream of randomness, so that adding one changes no other."""
    return np.random.default_rng(seed)


def _notes(matrix: Matrix, harmful: Bools, benign: Bools) -> tuple[str, ...]:
    plan = matrix.layout
    notes = [
        "Shares are averages over this attack mix, and none of solo, leave-one-out and Shapley is a layer's value."
    ]
    if plan.refusal_as_veto:
        notes.append(f"No reference checkpoint is stated: {MODEL!r} enters as a veto that blocks where it refuses.")
    idle = [
        row.name
        for v in plan.enforced
        if _looked(matrix, (row := plan.vetoes[v]).name) + _errors(matrix, row.name) == 0
    ]
    if idle:
        notes.append(
            f"{', '.join(idle)} gave no opinion in this audit. Rate limits have no single-shot value: they are worth "
            "something only against a query budget."
        )
    if not matrix.usable.all():
        gone = int((~matrix.usable).sum())
        notes.append(f"The model gave no answer on {gone} of {matrix.n} items: they are in no rate.")
    for label, items in (("harmful", harmful), ("benign", benign)):
        notes.extend(_about(label, int(items.sum()), len(np.unique(matrix.meta.cluster[items]))))
    return tuple(notes)


def _about(label: str, n: int, behaviours: int) -> list[str]:
    if n == 0:
        return [f"There are no {label} items: nothing can be said about them."]
    if behaviours < FEW_BEHAVIOURS:
        noun = "behaviour" if behaviours == 1 else "behaviours"
        return [f"Only {behaviours} {label} {noun}: bootstrap intervals are too narrow below {FEW_BEHAVIOURS}."]
    if behaviours < n:
        return [f"{n} {label} items come from {behaviours} behaviours: the clustered intervals are the honest ones."]
    return []
