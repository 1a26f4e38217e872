"""`alignstack train kto`: learning from single answers, each good or bad, with TRL's KTO.

Needs no pairs: logs with thumbs up or down, or a judge's verdicts. Pairs can be given too and are taken apart. The two
kinds are balanced by weights (Ethayarajh et al. 2024, equation 8).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from alignstack.core.errors import DataError
from alignstack.training import alarms, dataset, trainer
from alignstack.training.losses import FALL
from alignstack.training.monitor import Monitor
from alignstack.training.recipe import RecipePath, load
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin

log = logging.getLogger(__name__)

BALANCED = (1.0, 4 / 3)
"""Where desirable weight x rows / (undesirable weight x rows) should lie, says the paper."""


class KTO(Recipe):
    """The recipe."""

    data: list[dataset.Source] = Field(min_length=1)
    """Files of answers with a `label` (True: good), of pairs, or of prompts with `chosen` and `rejected` answers made
    of `refuse` and `parent`."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: rows that are near-duplicates of their prompts are dropped."""
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`apo_zero_unpaired` (D'Oosterlinck et al. 2024) measures from the reference itself, not from the mean drift."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to move away from the reference; the paper's 0.1."""
    desirable_weight: float | None = Field(default=None, gt=0)
    undesirable_weight: float | None = Field(default=None, gt=0)
    """Weights of good and bad answers. Left out: 1 for the more numerous kind, and for the other what makes up for its
    fewer rows."""
    on_falling_chosen: Literal["warn", "stop"] = "warn"
    """When good answers become less likely while the margin rises."""
    falling_bound: float = Field(default=FALL, gt=0)
    """Nats an answer by which they may."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=1e-4, weight_decay=0.0)

    @field_validator("optimiser")
    @classmethod
    def _two(cls, optimiser: trainer.Optimiser) -> trainer.Optimiser:
        if optimiser.batch < 2:
            raise ValueError("KTO compares answers of a batch with one another: batch must be at least 2")
        return optimiser


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, KTO)
    stage = begin(config, recipe, "kto", tools)
    rows = dataset.for_stage(stage, config.data, "unpaired", config.held_out)
    good, bad = weights(config, rows)
    stage.notes["kto"] = {"desirable_weight": good, "undesirable_weight": bad}
    model, tokenizer = stage.load()
    reference = None if config.lora else trainer.load(stage.parent)[0]
    trained = trainer.kto(
        model, reference, tokenizer, whole_batches(rows, config.optimiser.batch), stage.run(watch(stage, good, bad)),
        beta=config.beta, loss_type=config.loss, desirable_weight=good, undesirable_weight=bad,
    )  # fmt: skip
    return stage.finish(trained, tokenizer)


def weights(config: KTO, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Of good and of bad answers. Warns when those of the recipe do not balance the rows. Raises DataError when there
    is only one kind."""
    n_good = sum(bool(row["label"]) for row in rows)
    n_bad = len(rows) - n_good
    if not n_good or not n_bad:
        raise DataError(f"all {len(rows)} answers are {'good' if n_good else 'bad'}; KTO needs both kinds")
    most = max(n_good, n_bad)
    good = config.desirable_weight or round((config.undesirable_weight or 1.0) * n_bad / n_good, 4)
    bad = config.undesirable_weight or round((config.desirable_weight or 1.0) * n_good / n_bad, 4)
    if config.desirable_weight is None and config.undesirable_weight is None:
        good, bad = round(most / n_good, 4), round(most / n_bad, 4)
    ratio = good * n_good / (bad * n_bad)
    if not BALANCED[0] - 1e-3 <= ratio <= BALANCED[1] + 1e-3:
        log.warning(
            "weights %g and %g on %d good and %d bad answers give the good ones %.2f times the weight of the bad ones; "
            "the paper's rule is 1 to 4/3: leave one of them out, or set desirable_weight to %.3g",
            good, bad, n_good, n_bad, ratio, bad * n_bad / n_good,
        )  # fmt: skip
    return good, bad


def whole_batches(rows: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """The rows without the last one if it would be a batch of its own: its drift would be measured against itself."""
    return rows[:-1] if len(rows) % batch == 1 else rows


def watch(stage: Stage, good: float, bad: float) -> list[Monitor]:
    """On the first step every answer is as likely as under the reference: 1 - sigmoid(0), times its weight."""
    config: Any = stage.recipe
    falling = alarms.FallingChosen(
        stage.work, nats=1 / config.beta, bound=config.falling_bound, stop=config.on_falling_chosen == "stop"
    )
    return [alarms.NotANumber(), alarms.StaleReference(good / 2 if good == bad else None), falling]
