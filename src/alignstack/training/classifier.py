"""Train the embedded classifier: `alignstack train classifier --config recipes/classifier.yaml`.

Reads the sets in `SOURCES`, adds the forms that they lack (attacks, answers, refusals, harmless talk about harmful
topics), splits by near-duplicate cluster, fits one logistic regression a label on hashed features, calibrates each on
its own split and writes one file of int8 weights. Deterministic for a given recipe, data and machine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from alignstack.core.errors import ConfigError, DataError, Problem
from alignstack.layers.classifier import BITS, FORMAT, HAZARD_BITS, dump, features
from alignstack.policy.model import ATTACKS, CANONICAL
from alignstack.training import corpus
from alignstack.training.classifier_data import OWN, SOURCES, Row, Split, augmented, contrast, everyday, read_source
from alignstack.training.lineage import sha256
from alignstack.training.recipe import RecipePath, Strict, load
from alignstack.training.split import clusters, fraction, without_twins

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

DEMO = Path(__file__).parent.parent / "redteam" / "data"
LABELS = ("harmful", *CANONICAL, *ATTACKS)


class ClassifierRecipe(Strict):
    """Keys of the recipe."""

    name: str
    data: RecipePath
    """Folder that holds `train/` and `pretrain/`; a set that is not there is an error."""
    out: RecipePath
    """The weights file to write (`.npz`)."""
    sources: tuple[str, ...] | None = None
    """Use only these sets; all of them otherwise."""
    everyday: int = Field(default=3000, ge=0)
    """Ordinary requests made from the project's own templates."""
    seed: int = 0
    regularisation: float = Field(default=8.0, gt=0)
    """Inverse strength C of the L2 penalty; chosen on the dev split."""
    iterations: int = Field(default=200, ge=1)
    """At most so many L-BFGS steps a label."""
    calibration: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of the clusters that fit the calibration and nothing else."""
    dev: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the clusters that are only reported on."""


# ---------------------------------------------------------------- splits


def split(rows: Sequence[Row], recipe: ClassifierRecipe) -> list[Row]:
    """Clusters go to one split as a whole. Harmful rows and the smaller sets are clustered by shared words; for the
    large sets, where that would take minutes, a cluster is an identical set of leading words."""
    small = [i for i, row in enumerate(rows) if row.harmful or row.weight > 1]
    heads = dict(zip(small, clusters([rows[i].text for i in small], 0.5), strict=True))
    named = []
    for i, row in enumerate(rows):
        key = row.cluster or (
            rows[small[heads[i]]].text if i in heads else " ".join(sorted(row.text.lower().split()[:12]))
        )
        named.append(replace(row, cluster=key, split=_split_of(key, recipe)))
    return named


def _split_of(cluster: str, recipe: ClassifierRecipe) -> Split:
    draw = fraction(cluster, "classifier")
    if draw < recipe.dev:
        return "dev"
    return "calibration" if draw < recipe.dev + recipe.calibration else "train"


# ---------------------------------------------------------------- fitting


def matrix(texts_: Sequence[str]) -> csr_matrix:
    """[texts, 2 ** BITS], float32; words and letter runs each of length 1, as at run time."""
    from scipy.sparse import csr_matrix

    columns, values, ends = [], [], [0]
    for text in texts_:
        found = [buckets for buckets in features(text) if len(buckets)]
        columns += found
        values += [np.full(len(buckets), 1 / np.sqrt(len(buckets)), np.float32) for buckets in found]
        ends.append(ends[-1] + sum(map(len, found)))
    parts = (
        np.concatenate(values or [np.empty(0, np.float32)]),
        np.concatenate(columns or [np.empty(0, np.int64)]),
        ends,
    )
    made = csr_matrix(parts, shape=(len(texts_), 2**BITS), dtype=np.float32)
    made.sum_duplicates()
    return made


def coarse(x: csr_matrix) -> csr_matrix:
    """The same rows over 2 ** HAZARD_BITS columns."""
    from scipy.sparse import csr_matrix

    made = csr_matrix(
        (x.data, x.indices >> (BITS - HAZARD_BITS), x.indptr), shape=(x.shape[0], 2**HAZARD_BITS), copy=True
    )
    made.sum_duplicates()
    return made


def targets(rows: Sequence[Row], label: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(truth, known): hazard labels are unknown for harmful rows whose hazard nobody wrote down."""
    if label == "harmful":
        return np.array([row.harmful for row in rows]), np.ones(len(rows), bool)
    truth = np.array([row.hazards is not None and label in row.hazards for row in rows])
    return truth, np.array([row.hazards is not None for row in rows])


def fit(
    x: csr_matrix, y: NDArray[np.bool_], weights: NDArray[np.float64], recipe: ClassifierRecipe
) -> tuple[Any, float]:
    """(weights [columns], bias) of one label. A label with no example of a class is a constant.

    Logistic regression on features scaled by their naive-Bayes log-count ratio (Wang and Manning 2012, "Baselines and
    Bigrams"), which is then folded into the weights, so it costs nothing at run time.
    """
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression

    if y.all() or not y.any():
        return np.zeros(x.shape[1]), 5.0 if y.all() else -5.0
    ratio = log_count_ratio(x, y, weights)
    model = LogisticRegression(C=recipe.regularisation, max_iter=recipe.iterations, tol=1e-5)
    model.fit(x @ diags(ratio), y, sample_weight=weights)
    return model.coef_[0] * ratio, float(model.intercept_[0])


def log_count_ratio(x: csr_matrix, y: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[columns]: log of how much likelier a feature is in the positive class, each count plus one."""
    seen = x.copy()
    seen.data = np.ones_like(seen.data)
    positive, negative = 1 + seen.T @ (weights * y), 1 + seen.T @ (weights * ~y)
    ratio: NDArray[np.float64] = np.log(positive / positive.sum() * (negative.sum() / negative))
    return ratio


def platt(logits: NDArray[np.float64], y: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[float, float]:
    """(a, b) so that sigmoid(a · logit + b) is a probability (Platt 1999); (1, 0) where one class is missing."""
    from sklearn.linear_model import LogisticRegression

    if y.all() or not y.any():
        return 1.0, 0.0
    model = LogisticRegression(C=1e4).fit(logits[:, None], y, sample_weight=weights)
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def reliability(p: NDArray[np.float64], y: NDArray[np.bool_], bins: int = 10) -> dict[str, Any]:
    """Expected calibration error (equal-width bins), Brier score and the table behind them."""
    which = np.minimum((p * bins).astype(int), bins - 1)
    table = [
        {
            "low": b / bins,
            "n": int(hit.sum()),
            "said": round(float(p[hit].mean()), 4),
            "was": round(float(y[hit].mean()), 4),
        }
        for b in range(bins)
        if (hit := which == b).any()
    ]
    ece = sum(line["n"] * abs(line["said"] - line["was"]) for line in table) / len(p)
    return {"n": len(p), "ece": round(ece, 4), "brier": round(float(((p - y) ** 2).mean()), 4), "table": table}


def quantised(weights: NDArray[np.float64]) -> tuple[NDArray[np.int8], float]:
    """int8 weights and their scale."""
    scale = max(float(np.abs(weights).max()), 1e-12) / 127
    return np.round(weights / scale).astype(np.int8), scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One label, trained and calibrated."""

    weights: NDArray[np.int8]
    scale: float
    bias: float
    calibration: tuple[float, float]
    dev: dict[str, Any] | None
    """What the dev split says of it."""

    def probabilities(self, x: csr_matrix) -> NDArray[np.float64]:
        """[rows], calibrated."""
        logits = x @ (self.weights * self.scale) + self.bias
        found: NDArray[np.float64] = 1 / (1 + np.exp(-(self.calibration[0] * logits + self.calibration[1])))
        return found


def fitted(label: str, rows: dict[str, list[Row]], x: dict[str, csr_matrix], recipe: ClassifierRecipe) -> Fitted:
    """Fit on `train`, calibrate on `calibration`, report on `dev`; the last two may be missing."""

    def part(name: str) -> tuple[csr_matrix, NDArray[np.bool_], NDArray[np.float64]]:
        y, known = targets(rows[name], label)
        return x[name][known], y[known], np.array([row.weight for row in rows[name]])[known]

    weights, bias = fit(*part("train"), recipe)
    small, scale = quantised(weights)
    head = Fitted(weights=small, scale=scale, bias=bias, calibration=(1.0, 0.0), dev=None)
    if "calibration" in rows:
        found, y, sample = part("calibration")
        head = replace(head, calibration=platt(found @ (small * scale) + bias, y, sample))
    if "dev" in rows:
        found, y, _ = part("dev")
        head = replace(head, dev={"positives": int(y.sum())} | reliability(head.probabilities(found), y))
    return head


def flagged(rows: Sequence[Row], p: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Form and label → rows, and the share of them at 0.5 and above."""
    groups: dict[str, list[bool]] = {}
    for row, value in zip(rows, p, strict=True):
        groups.setdefault(f"{row.form}, {'harmful' if row.harmful else 'benign'}", []).append(bool(value >= 0.5))
    return {name: {"n": len(hits), "flagged": round(sum(hits) / len(hits), 4)} for name, hits in sorted(groups.items())}


# ---------------------------------------------------------------- the run


def gather(recipe: ClassifierRecipe) -> tuple[list[Row], dict[str, str]]:
    """All rows with their splits, demo prompts' twins removed; and file name → SHA-256 of what was read."""
    wanted = SOURCES if recipe.sources is None else recipe.sources
    if unknown := sorted(set(wanted) - set(SOURCES)):
        what = f"no set {', '.join(map(repr, unknown))}; known: {', '.join(SOURCES)}"
        raise ConfigError([Problem(where="sources", what=what)])
    rng = random.Random(recipe.seed)
    rows = contrast() + everyday(recipe.everyday, rng)
    hashes = {path.name: sha256(path) for path in (OWN / "contrast.jsonl", OWN / "everyday.json")}
    for name in wanted:
        found, path = read_source(name, recipe.data, rng)
        rows += found
        hashes[path.name] = sha256(path)
    distinct = list({row.text: row for row in rows if row.text.strip()}.values())
    held_out = [row["text"] for path in sorted(DEMO.glob("demo_*.jsonl")) for row in corpus.rows(path)]
    kept = without_twins([{"text": row.text, "row": row} for row in distinct], held_out)
    return list(augmented(split([row["row"] for row in kept], recipe), rng)), hashes


def run(path: Path) -> Path:
    """Train by the recipe at `path`; returns the weights file. Raises ConfigError and DataError."""
    recipe = load(path, ClassifierRecipe)
    rows, hashes = gather(recipe)
    splits = {
        name: found for name in ("train", "calibration", "dev") if (found := [r for r in rows if r.split == name])
    }
    if "train" not in splits:
        raise DataError("no rows to train on")
    x = {name: matrix([row.text for row in found]) for name, found in splits.items()}
    less = {name: coarse(found) for name, found in x.items()}
    heads = {label: fitted(label, splits, x if label == "harmful" else less, recipe) for label in LABELS}
    header = {
        "format": FORMAT, "name": recipe.name, "labels": LABELS, "thresholds": {"harmful": 0.5}, "seed": recipe.seed,
        "recipe": sha256(path), "data": hashes, "dev": {label: head.dev for label, head in heads.items()},
        "rows": {name: Counter("harmful" if r.harmful else "benign" for r in part) for name, part in splits.items()},
    }  # fmt: skip
    if "dev" in splits:
        header["dev_forms"] = flagged(splits["dev"], heads["harmful"].probabilities(x["dev"]))
    recipe.out.parent.mkdir(parents=True, exist_ok=True)
    write(recipe.out, header, list(heads.values()))
    return recipe.out


def write(out: Path, header: dict[str, Any], heads: Sequence[Fitted]) -> None:
    """`heads` in the order of `LABELS`."""
    dump(
        out,
        header=header,
        harm=heads[0].weights,
        hazards=np.stack([head.weights for head in heads[1:]], axis=1),
        scale=np.array([head.scale for head in heads], np.float32),
        bias=np.array([head.bias for head in heads], np.float32),
        calibration=np.array([head.calibration for head in heads], np.float32),
    )
