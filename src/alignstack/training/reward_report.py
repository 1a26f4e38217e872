"""What a reward model has learnt, on pairs that it was not trained on: accuracy, margins, calibration, length bias."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignstack.core.wilson import wilson
from alignstack.training import trainer
from alignstack.training.soft import turned

BINS = 10
"""Of the calibration, equally wide."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A held-out pair as the model sees it, turned so that the first answer is the likelier better one."""

    rewards: tuple[float, float]
    tokens: tuple[int, int]
    """Of the answers."""
    confidence: float
    """Probability in [0.5, 1] that the first one is the better one; 1 where the row does not say."""

    @property
    def margin(self) -> float:
        return self.rewards[0] - self.rewards[1]

    @property
    def longer(self) -> int:
        """Tokens by which the better answer is the longer one."""
        return self.tokens[0] - self.tokens[1]


def pairs(model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[Pair]:
    """Rewards and lengths of held-out pairs."""
    rows = [row if row.get("confidence", 1.0) >= 0.5 else turned(row) for row in rows]
    answers = [row[which] for row in rows for which in ("chosen", "rejected")]
    talks = [[*row["prompt"], *row[which]] for row in rows for which in ("chosen", "rejected")]
    rewards = trainer.score(model, tokenizer, talks)
    tokens = [len(ids) for ids in tokenizer([turn[-1]["content"] for turn in answers])["input_ids"]]
    return [
        Pair(
            rewards=(rewards[2 * i], rewards[2 * i + 1]),
            tokens=(tokens[2 * i], tokens[2 * i + 1]),
            confidence=row.get("confidence", 1.0),
        )
        for i, row in enumerate(rows)
    ]


def report(members: Sequence[Sequence[Pair]], trained_on: int) -> dict[str, Any]:
    """All of it, as plain data. `members`: the held-out pairs as each member scores them, the checkpoint's own first;
    the figures are its, those of the ensemble stand beside them."""
    own = members[0]
    values = [[reward for pair in one for reward in pair.rewards] for one in members]
    found = {
        "pairs": {"trained": trained_on, "held_out": len(own)},
        "accuracy": accuracy(own),
        "margin": margins(own),
        "calibration": calibration(own),
        "length": length_bias(own),
        "members": [
            {"mean": _mean(v), "std": _std(v), **accuracy(one)} for v, one in zip(values, members, strict=True)
        ],
    }
    if len(members) > 1:
        spread = [_std(rewards) for rewards in zip(*map(_standard, values), strict=True)]
        found["disagreement"] = {"mean": _mean(spread), "most": max(spread)}
    return found


def accuracy(found: Sequence[Pair]) -> dict[str, Any]:
    """Share of pairs, of those that have a better answer, whose better answer has the higher reward; with Wilson's 95 %
    interval."""
    told = [pair for pair in found if pair.confidence > 0.5]
    return share(sum(pair.margin > 0 for pair in told), len(told))


def share(right: int, n: int) -> dict[str, Any]:
    """`accuracy` with `low`, `high` and `n`; None where there is nothing to count."""
    if not n:
        return {"accuracy": None, "low": None, "high": None, "n": 0}
    low, high = wilson(right, n)
    return {"accuracy": right / n, "low": low, "high": high, "n": n}


def margins(found: Sequence[Pair]) -> dict[str, float]:
    """Mean, standard deviation and quantiles of r(better) - r(worse)."""
    import numpy as np

    values = [pair.margin for pair in found]
    quantiles = np.quantile(values, QUANTILES).tolist()
    named = {f"q{round(100 * q):02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": _mean(values), "std": _std(values), **named}


def calibration(found: Sequence[Pair]) -> dict[str, Any]:
    """Do the probabilities come true? Every pair counts in both orders, or all outcomes would be 1: first answer better
    with sigmoid(margin), observed `confidence` of the time; the other way round, the rest of both.

    `ece`: mean distance of predicted and observed over the bins, weighted by their pairs (Guo et al. 2017). `brier`:
    mean squared distance a pair. `bins`: edges, n, means of both.
    """
    both = [(sigmoid(p.margin), p.confidence) for p in found]
    both += [(1 - predicted, 1 - observed) for predicted, observed in both]
    binned: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for one in both:
        binned[min(BINS - 1, int(one[0] * BINS))].append(one)
    bins = [_bin(number, binned[number]) for number in sorted(binned)]
    return {
        "ece": sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / len(both),
        "brier": _mean([(predicted - observed) ** 2 for predicted, observed in both]),
        "bins": bins,
    }


def _bin(number: int, inside: Sequence[tuple[float, float]]) -> dict[str, float]:
    predicted, observed = zip(*inside, strict=True)
    edges = {"from": number / BINS, "to": (number + 1) / BINS}
    return edges | {"n": len(inside), "predicted": _mean(predicted), "observed": _mean(observed)}


def length_bias(found: Sequence[Pair]) -> dict[str, Any]:
    """Does length buy reward? `all`: correlation of reward and tokens over all answers. `within`: of their differences
    between the two answers to one request, through the origin, since either could stand first; `per_10_tokens` is the
    slope. The accuracies tell the same by the outcome: a model that only counts tokens is right on one side alone."""
    told = [pair for pair in found if pair.confidence > 0.5]
    longer = [pair for pair in told if pair.longer > 0]
    shorter = [pair for pair in told if pair.longer < 0]
    margin, more = [p.margin for p in found], [float(p.longer) for p in found]
    moved, area = sum(d * t for d, t in zip(margin, more, strict=True)), sum(t * t for t in more)
    return {
        "all": _correlation([r for p in found for r in p.rewards], [float(t) for p in found for t in p.tokens]),
        "within": moved / scale if (scale := math.sqrt(sum(d * d for d in margin) * area)) else None,
        "per_10_tokens": 10 * moved / area if area else None,
        "better_is_longer": share(sum(p.margin > 0 for p in longer), len(longer)),
        "better_is_shorter": share(sum(p.margin > 0 for p in shorter), len(shorter)),
    }


def write(file: Path, found: Mapping[str, Any], rows: Sequence[Row], scored: Sequence[Pair]) -> None:
    """The report in the first line, then a line for each held-out pair."""
    lines: list[Mapping[str, Any]] = [found]
    for row, pair in zip(rows, scored, strict=True):
        lines.append(
            {"origin": row.get("origin"), "rewards": pair.rewards, "tokens": pair.tokens, "confidence": pair.confidence}
        )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _standard(values: Sequence[float]) -> list[float]:
    mean, std = _mean(values), _std(values) or 1.0
    return [(value - mean) / std for value in values]


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's; None when one of them does not vary."""
    if not _std(a) or not _std(b):
        return None
    return _mean([x * y for x, y in zip(_standard(a), _standard(b), strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _std(values: Sequence[float]) -> float:
    """Of these values, not an estimate of others'."""
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) ** 2 for value in values]))
