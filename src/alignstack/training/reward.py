"""`alignstack train reward`: a Bradley–Terry reward model, or an ensemble, and a report on what it has learnt.

P(chosen is better) = sigmoid(r(chosen) - r(rejected)) (Bradley & Terry 1952). A share of the pairs, whole clusters of
near-duplicate requests, is not trained on; the report on those is kept with the checkpoint (`reward.jsonl`): how often
the better answer gets the higher reward, whether the probabilities can be believed, and whether length buys reward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from alignstack.core.errors import ConfigError, DataError, Problem
from alignstack.training import dataset, trainer
from alignstack.training.lineage import WEIGHTS, sha256
from alignstack.training.recipe import RecipePath, load
from alignstack.training.reward_report import Pair, pairs, report, write
from alignstack.training.rewards.model import REPORT
from alignstack.training.soft import soften
from alignstack.training.split import clusters, fraction
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin

Row = Mapping[str, Any]


class RewardModel(Recipe):
    """The recipe."""

    data: list[dataset.Source] = Field(min_length=1)
    """Files of preference pairs, or of prompts with `chosen` and `rejected` in the source."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: rows that are near-duplicates of their prompts are dropped."""
    holdout: float = Field(default=0.15, gt=0, lt=1)
    """Share of the pairs that the report is made on."""
    center: float | None = Field(default=0.01, gt=0)
    """Weight of the penalty on the squared sum of both rewards; Eisenstein et al. 2023 use 0.01."""
    members: int = Field(default=1, ge=1)
    """Of an ensemble: other seeds, hence other heads and another order of the rows. The further ones lie in `member-1`,
    `member-2` … of the checkpoint."""
    copies: int = Field(default=4, ge=1)
    """Of pairs with a `confidence`, in both orientations; it is rounded to 1/copies."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=2e-4, warmup=10)


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, RewardModel)
    if config.evaluate is not None:
        raise ConfigError([Problem(where=f"{recipe}: evaluate", what="a reward model answers nothing; leave it out")])
    stage = begin(config, recipe, "reward", tools)
    rows = dataset.for_stage(stage, config.data, "preference", config.held_out)
    training, held = divide(rows, config.holdout, config.seed)
    softened = soften(training, config.copies)
    scored = []
    for number in range(config.members - 1, 0, -1):
        scored.append(_member(stage, config, number, softened, held))
    trained, tokenizer = _train(stage, config, 0, softened)
    scored.append(pairs(trained.model, tokenizer, held))
    stage.notes["reward"] = report(scored[::-1], len(training))
    write(stage.work / REPORT, stage.notes["reward"], held, scored[-1])
    return stage.finish(trained, tokenizer)


def divide(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and about `share` of them held out: near-duplicate requests stay together, and which are held
    out depends on their words and the seed alone. Raises DataError when one side would be empty."""
    groups: dict[int, list[Row]] = defaultdict(list)
    requests = [row["prompt"][-1]["content"] for row in rows]
    for cluster, row in zip(clusters(requests), rows, strict=True):
        groups[cluster].append(row)
    drawn = sorted(groups, key=lambda cluster: fraction(requests[cluster], str(seed)))
    held: list[Row] = []
    while drawn and len(held) < share * len(rows):
        held += groups[drawn.pop(0)]
    training = [row for cluster in sorted(drawn) for row in groups[cluster]]
    if not training or not held:
        raise DataError(f"{len(rows)} pairs in {len(groups)} groups of like requests are too few to hold some out")
    return training, held


def _train(stage: Stage, config: RewardModel, number: int, rows: Sequence[Row]) -> tuple[trainer.Trained, Any]:
    """One member; the first trains in the stage's own folder."""
    model, tokenizer = trainer.load_scorer(stage.parent, config.seed + number)
    how = replace(stage.run(), seed=config.seed + number)
    if number:
        how = replace(how, work=stage.work / f"member-{number}")
    return trainer.reward(model, tokenizer, [dict(row) for row in rows], how, center=config.center), tokenizer


def _member(stage: Stage, config: RewardModel, number: int, rows: Sequence[Row], held: Sequence[Row]) -> list[Pair]:
    """A further member, saved for `finish`; one that a killed run had finished is not trained again."""
    folder = stage.work / f"member-{number}" / "whole"
    if not (folder / WEIGHTS).is_file():
        trained, tokenizer = _train(stage, config, number, rows)
        trainer.save(trained.model, tokenizer, folder)
    stage.folders[f"member-{number}"] = folder
    stage.uses[f"member-{number}"] = sha256(folder / WEIGHTS)
    return pairs(*trainer.load_scorer(folder), held)
