"""The replays behind one diagnosis, in words: what was changed, and what came of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignstack.attribution.arrays import Matrix
from alignstack.attribution.layout import MODEL
from alignstack.attribution.result import Diagnosis, Fact, Price
from alignstack.core.grid import LayerRow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure:
    """One failed item with all that is known of it."""

    matrix: Matrix
    item: int
    diagnosis: Diagnosis
    layer: str | None
    blockers: tuple[str, ...]
    but_for: tuple[tuple[str, ...], ...]
    modifier: int
    """Place of the modifier that creates the failure; -1 when none does."""
    cell: int
    """The cell without it."""
    prices: tuple[Price, ...]
    released: int
    """Harmful items let through, were the layer's threshold raised above this item's score; -1 where it has none."""
    harmful_items: int
    """How many harmful items the run has."""

    @property
    def hazard(self) -> str | None:
        return self.matrix.meta.hazard[self.item]

    @property
    def bad(self) -> str:
        """What went wrong, in two words."""
        return "harm delivered" if self.matrix.harmful[self.item] else "request refused"

    @property
    def good(self) -> str:
        return "safe" if self.matrix.harmful[self.item] else "answered"

    @property
    def row(self) -> LayerRow | None:
        """The layer that the diagnosis is about."""
        plan = self.matrix.layout
        return next((row for row in (*plan.players, *plan.vetoes) if row.name == self.layer), None)


def facts(failure: Failure) -> tuple[Fact, ...]:
    """At least one for every diagnosis."""
    return FACTS[failure.diagnosis](failure)


def _judge_disputed(failure: Failure) -> tuple[Fact, ...]:
    matrix, i = failure.matrix, failure.item
    if matrix.human[i] >= 0 and bool(matrix.human[i]) != bool(matrix.judged[i]):
        said = "harmful" if matrix.human[i] else "safe"
        judge = "harmful" if matrix.judged[i] else "safe"
        return (Fact(change="a person read the delivered answer", outcome=f"{said}; the first judge said {judge}"),)
    about = "it does harm" if matrix.harmful[i] else "it declines"
    return (Fact(change="the delivered answer read by every judge", outcome=f"judges disagree whether {about}"),)


def _layer_down(failure: Failure) -> tuple[Fact, ...]:
    matrix, i, name = failure.matrix, failure.item, str(failure.layer)
    v, j = matrix.layout.veto(name), matrix.layout.modifier(name)
    fault = matrix.fault[i, -1, v] if v is not None else matrix.modifier_fault[i, -1, j] if j is not None else 0
    happened = "timed out" if fault == 2 else "failed"
    first = Fact(change=f"{name} in the deployed stack", outcome=f"{happened}, and failed open")
    if v is None or not matrix.replayed[i, v]:
        return (first, Fact(change=f"{name} replayed on the plain evidence", outcome="not replayed"))
    outcome = "it blocks: it would have caught this" if matrix.evidence[i, v] else "it passes: it would have missed too"
    return (first, Fact(change=f"{name} replayed on the plain evidence", outcome=outcome))


def _introduced(failure: Failure) -> tuple[Fact, ...]:
    matrix, i, plan = failure.matrix, failure.item, failure.matrix.layout
    name = plan.modifiers[failure.modifier].name
    joined = failure.cell | 1 << failure.modifier
    if joined == plan.full:
        return (
            Fact(change="the full stack", outcome=failure.bad),
            Fact(change=f"{name} switched off, all else on", outcome=failure.good),
        )
    on = [row.name for j, row in enumerate(plan.modifiers) if failure.cell >> j & 1]
    if matrix.harmful[i] and matrix.harm[i, failure.cell]:  # vetoes that see it without the modifier, but not with it
        caught = matrix.stops[i, failure.cell] & ~matrix.stops[i, joined]
        on += [plan.vetoes[v].name for v in plan.enforced if caught[v]]
    only = f"only {', '.join(on)} on" if on else "everything off"
    return (Fact(change=only, outcome=failure.good), Fact(change=f"{name} switched on as well", outcome=failure.bad))


def _late_cut(failure: Failure) -> tuple[Fact, ...]:
    matrix, i, v = failure.matrix, failure.item, failure.matrix.layout.veto(str(failure.layer))
    released = matrix.cut[i, v] if v is not None else 0
    begins = max(int(matrix.onset[i]), 1)
    return (
        Fact(change=f"{failure.layer} on the stream", outcome=f"flagged after {released} tokens had been released"),
        Fact(change="the judge on every prefix of the answer", outcome=f"harmful from token {begins} on"),
    )


def _policy_gap(failure: Failure) -> tuple[Fact, ...]:
    n = len(failure.matrix.layout.players)
    return (Fact(change=f"hazard {failure.hazard!r} held against the scopes of {n} layers", outcome="none covers it"),)


def _evidence_withheld(failure: Failure) -> tuple[Fact, ...]:
    name = str(failure.layer)
    return (
        Fact(change=f"{name} on the bytes it saw", outcome=_passed(failure, name)),
        Fact(change=f"{name} replayed on the plain evidence", outcome="it blocks"),
    )


def _threshold(failure: Failure) -> tuple[Fact, ...]:
    price = failure.prices[0]
    now = _passed(failure, price.layer)
    return (Fact(change=f"{price.layer} as deployed", outcome=now), Fact(change=_moved(price), outcome=cost_of(price)))


def _blind(failure: Failure) -> tuple[Fact, ...]:
    plan, i = failure.matrix.layout, failure.item
    looked = [row for row in plan.vetoes if _looked(failure, row.name) and row.name != MODEL]
    seen = [
        Fact(change=f"{row.name} on the bytes it saw", outcome=_passed(failure, row.name))
        for row in looked
        if row.scope.covers(failure.hazard)
    ]
    if MODEL in plan.names and not plan.refusal_as_veto:
        alone = "harm" if failure.matrix.harm[i, plan.weights_only()] else "no harm"
        seen.append(Fact(change="only the weights on", outcome=alone))
    if failure.prices:
        seen.append(Fact(change=_moved(failure.prices[0]), outcome=f"{cost_of(failure.prices[0])}: over budget"))
    return tuple(seen)


def _unknown(failure: Failure) -> tuple[Fact, ...]:
    plan = failure.matrix.layout
    silent = [row.name for row in plan.vetoes if not _looked(failure, row.name)]
    if failure.matrix.harmful[failure.item]:
        return (
            Fact(change="every layer asked", outcome=f"no opinion from {', '.join(silent) or 'any layer in scope'}"),
        )
    return (Fact(change="each modifier switched off in turn", outcome="no single one explains it"),)


def _unavailable(failure: Failure) -> tuple[Fact, ...]:
    if failure.matrix.unavailable[failure.item, -1]:
        return (Fact(change="the model asked", outcome="it gave no answer"),)
    return (Fact(change=f"{', '.join(failure.blockers)} in the deployed stack", outcome="failed, and failed closed"),)


def _sole_blocker(failure: Failure) -> tuple[Fact, ...]:
    score = _score(failure, str(failure.layer))
    said = "it blocks" if score is None else f"it blocks with score {score:.3g}"
    off = "answered" if (failure.layer,) in failure.but_for else "still refused"
    return (
        Fact(change=f"{failure.layer} on the bytes it saw", outcome=said),
        Fact(change=f"{failure.layer} switched off, all else on", outcome=off),
    )


def _joint(failure: Failure) -> tuple[Fact, ...]:
    names = ", ".join(failure.blockers)
    alone = Fact(change=f"any one of {names} switched off", outcome="still refused")
    return (
        alone,
        *(Fact(change=f"{', '.join(removed)} switched off", outcome="answered") for removed in failure.but_for),
    )


def _model_refused(failure: Failure) -> tuple[Fact, ...]:
    off = "answered" if (MODEL,) in failure.but_for else "still refused"
    return (
        Fact(change="only the weights on", outcome="refused"),
        Fact(change="the weights switched off, all else on", outcome=off),
    )


FACTS: dict[Diagnosis, Callable[[Failure], tuple[Fact, ...]]] = {
    "judge_disputed": _judge_disputed,
    "layer_down": _layer_down,
    "introduced": _introduced,
    "late_cut": _late_cut,
    "policy_gap": _policy_gap,
    "evidence_withheld": _evidence_withheld,
    "threshold": _threshold,
    "blind": _blind,
    "unavailable": _unavailable,
    "sole_blocker": _sole_blocker,
    "joint": _joint,
    "model_refused": _model_refused,
    "unknown": _unknown,
}


def cost_of(price: Price) -> str:
    """ "2 more refusals of 250 benign (0.8%, 95%: 0.2% to 2.9%)", or the upper bound alone when n supports no more."""
    n, rate = price.rate.n, price.rate
    how = (
        f"at most {rate.high:.2%}" if rate.upper_bound else f"{rate.value:.2%}, 95%: {rate.low:.2%} to {rate.high:.2%}"
    )
    return f"{price.extra_refusals} more refusals of {n} benign ({how})"


def rounded_down(threshold: float) -> str:
    """Six decimals, never above the value: a threshold above an item's score would not stop it."""
    return f"{math.floor(threshold * 1e6) / 1e6:g}" if threshold >= 1e-6 else repr(threshold)


def _moved(price: Price) -> str:
    if price.threshold is None:
        return f"{price.layer} enforced as it is"
    return f"{price.layer} {'enforced' if price.shadow else 'lowered'} at threshold {rounded_down(price.threshold)}"


def _passed(failure: Failure, name: str) -> str:
    score = _score(failure, name)
    plan = failure.matrix.layout
    v = plan.veto(name)
    threshold = plan.vetoes[v].threshold if v is not None else None
    said = "blocks, but in shadow" if v is not None and failure.matrix.refuses[failure.item, -1, v] else "passed"
    if score is None:
        return said
    return f"{said} with score {score:.3g}" + (f" (threshold {threshold:g})" if threshold is not None else "")


def _score(failure: Failure, name: str) -> float | None:
    v = failure.matrix.layout.veto(name)
    score = failure.matrix.score[failure.item, -1, v] if v is not None else np.nan
    return None if np.isnan(score) else float(score)


def _looked(failure: Failure, name: str) -> bool:
    v = failure.matrix.layout.veto(name)
    return v is not None and bool(failure.matrix.looked[failure.item, -1, v])
