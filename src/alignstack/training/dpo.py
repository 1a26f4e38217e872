"""`alignstack train dpo`: preference optimisation on pairs with TRL, by any loss that compares two answers.

The reference is loaded from the parent's folder as a second model (with `lora`: the model without its adapters), so it
is what training starts from, and the first step is checked for it. With `online` there are no pairs to begin with: the
model answers, a judge ranks, and that is trained on, round after round.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignstack.training import alarms, dataset, losses, scores, trainer
from alignstack.training.feedback.kept import unfinished
from alignstack.training.losses import Plan, Preference
from alignstack.training.monitor import Monitor
from alignstack.training.online import Online, rounds
from alignstack.training.recipe import RecipePath, load
from alignstack.training.soft import soften
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin


class DPO(Preference, Recipe):
    """The recipe: what the loss takes, and:"""

    data: list[dataset.Source] = Field(min_length=1)
    """Files of pairs, or of prompts with `chosen` and `rejected` answers made of `refuse` and `parent`; with `online`
    files of prompts."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: rows that are near-duplicates of their prompts are dropped."""
    online: Online | None = None
    soft_copies: int = Field(default=4, ge=1)
    """A row with `confidence` p enters that often, in both orientations in the proportion p to 1 - p."""
    on_falling_chosen: Literal["warn", "stop"] = "warn"
    """When chosen answers become less likely while the margin rises."""
    falling_bound: float | None = Field(default=None, gt=0)
    """Nats by which they may; 10 an answer, 0.5 a token for `orpo` and `simpo`."""
    margins: bool = False
    """Write the implicit reward margin of every pair after training to `margins.jsonl`, the worst first: at or below 0
    it was never learnt."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=1e-4, weight_decay=0.0)


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, DPO)
    plan = losses.plan(config, str(recipe))
    if not tools.resume:
        unfinished(config.out, "round-1.jsonl")
    stage = begin(config, recipe, "dpo", tools)
    if config.online is not None:
        rows = dataset.for_stage(stage, config.data, "prompts", config.held_out)

        def started() -> trainer.Run:
            return stage.run(watch(stage, plan))

        trained = rounds(stage, config.online, rows, lambda *given: fit(stage, plan, *given), started)
        return finish(stage, trained)
    rows = dataset.for_stage(stage, config.data, "preference", config.held_out)
    trained = fit(stage, plan, rows, stage.parent, stage.run(watch(stage, plan)))
    if config.margins and trained.main:
        write_margins(stage, plan, trained, rows)
    return finish(stage, trained)


def finish(stage: Stage, trained: trainer.Trained) -> Path:
    assert trained.tokenizer is not None  # `fit` gave the trainer one
    return stage.finish(trained, trained.tokenizer)


def fit(stage: Stage, plan: Plan, rows: list[dict[str, Any]], start: Path, run: trainer.Run) -> trainer.Trained:
    """Preference-tune the checkpoint at `start`, which is also the reference."""
    trainer.seed_everything(run.seed)
    model, tokenizer = trainer.load(start)
    config: Any = stage.recipe
    rows = soften(rows, config.soft_copies)
    if plan.trainer != "dpo":
        method = trainer.orpo if plan.trainer == "orpo" else trainer.cpo
        return method(model, tokenizer, rows, run, **plan.settings)
    reference = None if run.lora else trainer.load(start)[0]
    return trainer.dpo(model, reference, tokenizer, rows, run, **plan.settings)


def watch(stage: Stage, plan: Plan) -> list[Monitor]:
    """The monitors that every run of this method has."""
    config: Any = stage.recipe
    key, nats, unit, bound = plan.chosen
    falling = alarms.FallingChosen(
        stage.work, key=key, nats=nats, unit=unit, bound=config.falling_bound or bound,
        stop=config.on_falling_chosen == "stop",
    )  # fmt: skip
    stale = [alarms.StaleReference(plan.at_start)] if plan.trainer == "dpo" else []
    return [alarms.NotANumber(), *stale, falling]


def write_margins(stage: Stage, plan: Plan, trained: trainer.Trained, rows: list[dict[str, Any]]) -> None:
    """`margins.jsonl`: origin and margin of every pair."""
    folder = stage.work / "trained"
    assert trained.tokenizer is not None
    trainer.save(trained.model, trained.tokenizer, folder)
    found = scores.margins(folder, stage.parent, rows, plan.beta)
    worst = [int(i) for i in found.argsort()]
    lines = [{"row": i, "origin": rows[i].get("origin"), "margin": round(float(found[i]), 4)} for i in worst]
    (stage.work / "margins.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
