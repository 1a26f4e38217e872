"""`alignstack train rlhf`: GRPO or RLOO against rewards, with KL control and a watch for reward hacking.

TRL has dropped PPO, and there is none here: GRPO (Shao et al. 2024) and RLOO (Ahmadian et al. 2024) need no value model
and are the policy gradients that TRL keeps up. Both sample several answers to a request; an answer's advantage is how
much better it is than the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from alignstack.core.errors import ConfigError, DataError, Problem
from alignstack.training import dataset, trainer
from alignstack.training.constraint import Constraint, Lagrangian
from alignstack.training.kl import AdaptiveKL, Controller
from alignstack.training.lineage import WEIGHTS, sha256
from alignstack.training.recipe import RecipePath, load
from alignstack.training.rewards import Config, build, functions, named, unscored
from alignstack.training.rewards.answer import Place, Reward
from alignstack.training.rewards.model import Model
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin
from alignstack.training.watch import Exam, HackingWatch, Watch, questions

Own = HackingWatch | Lagrangian | Controller
"""The method's own monitors."""


class RLHF(Recipe):
    """The recipe."""

    algorithm: Literal["grpo", "rloo"] = "grpo"
    data: list[dataset.Source] = Field(min_length=1)
    """Files of prompts, harmful and benign."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: rows that are near-duplicates of their prompts are dropped, as are the watch's."""
    rewards: list[Config] = Field(min_length=1)
    constraint: Constraint | None = None
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the parent: in the loss, a token (GRPO); in the reward, an answer (RLOO).
    0: no reference is kept, and neither `kl` nor the watch can see how far the policy has gone."""
    kl: AdaptiveKL | None = None
    """β from here on follows a target."""
    generations: int = Field(default=4, ge=2)
    """Answers to each request; `optimiser.batch` x `accumulate` must be a multiple."""
    max_tokens: int = Field(default=96, ge=1)
    """Of an answer."""
    temperature: float = Field(default=1.0, gt=0)
    scale: Literal["group", "batch", "none"] = "group"
    """GRPO's advantages are divided by the standard deviation of the rewards to one request, or in the whole batch. By
    group, a request on which answers hardly differ counts as much as any other (Liu et al. 2025 say `none`)."""
    loss: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How GRPO averages over tokens, by TRL's names."""
    iterations: int = Field(default=1, ge=1)
    """Steps on the same answers; from the second on, probability ratios are clipped."""
    watch: Watch | None = Field(default_factory=Watch)
    """null: nobody watches."""
    log_every: int = Field(default=1, ge=1)
    """Steps. The watch and the constraint see what is logged."""
    optimiser: trainer.Optimiser = trainer.Optimiser(batch=16, learning_rate=2e-5, warmup=5, weight_decay=0.0)

    @model_validator(mode="after")
    def _fits(self) -> RLHF:
        batch = self.optimiser.batch * self.optimiser.accumulate
        if batch % self.generations:
            raise ValueError(
                f"`optimiser`: batch x accumulate is {batch}, no multiple of `generations: {self.generations}`"
            )
        if self.kl is not None and self.beta == 0:
            raise ValueError("`kl` starts from `beta`, which is 0; give it a value such as 0.05")
        return self

    def settings(self) -> dict[str, Any]:
        """For the trainer's configuration."""
        shared = {
            "beta": self.beta,
            "num_generations": self.generations,
            "max_completion_length": self.max_tokens,
            "temperature": self.temperature,
            "num_iterations": self.iterations,
        }
        return shared | ({"loss_type": self.loss, "scale_rewards": self.scale} if self.algorithm == "grpo" else {})


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder. Raises TrainingStopped when the watch ends the run."""
    config = load(recipe, RLHF)
    stage = begin(config, recipe, "rlhf", tools)
    watched = config.watch.prompts if config.watch else []
    rows = dataset.for_stage(stage, config.data, "prompts", [*config.held_out, *watched])
    model, tokenizer = stage.load()
    rows = fitting(rows, tokenizer, model.config.max_position_embeddings - config.max_tokens)
    configs = named(config.rewards, str(recipe))
    built = build(configs, Place(file=recipe, policy=stage.policy, tokenizer=tokenizer))
    check(config, built, rows, recipe)
    stage.uses |= dict(used(built))
    watch = _watch(config, stage)
    constraint = Lagrangian(config.constraint, list(built), [c.weight for c in configs]) if config.constraint else None
    controller = Controller(config.kl, config.beta) if config.kl else None
    monitors: list[Own] = [monitor for monitor in (watch, constraint, controller) if monitor is not None]
    trained = trainer.policy_gradient(
        config.algorithm, model, tokenizer, rows, stage.run(monitors),
        rewards=functions(built, tokenizer.eos_token_id, lambda: measured(monitors)),
        weights=[c.weight for c in configs], **config.settings(),
    )  # fmt: skip
    stage.notes["rlhf"] = summary(trained.history)
    return stage.finish(trained, tokenizer)


def fitting(rows: Sequence[Mapping[str, Any]], tokenizer: Any, room: int) -> list[dict[str, Any]]:
    """What the rewards read of the rows whose prompt leaves room for an answer. Raises DataError when there is none."""
    kept = [row for row in rows if trainer.length(tokenizer, row["prompt"]) < room]
    if not kept:
        raise DataError(f"no prompt has fewer than {room} tokens; lower `max_tokens`, or give shorter prompts")
    return [{name: row.get(name) for name in ("prompt", "label", "hazard")} for row in kept]


def check(config: RLHF, built: Mapping[str, Reward], rows: Sequence[Mapping[str, Any]], recipe: Path) -> None:
    """Raises ConfigError: rows whose answers nobody scores, or a constraint on a reward that is not there."""
    found = [
        Problem(
            where=f"{recipe}: rewards", what=f"none scores answers to {label} requests, which are in the data; add one"
        )
        for label in sorted(map(str, unscored(built, {row["label"] for row in rows})))
    ]
    cost = config.constraint.reward if config.constraint else None
    if cost is not None and cost not in built:
        what = f"no reward {cost!r}; there are {', '.join(built)}"
        found.append(Problem(where=f"{recipe}: constraint.reward", what=what))
    if found:
        raise ConfigError(found)


def used(built: Mapping[str, Reward]) -> Iterator[tuple[str, str]]:
    """Name and weights of every reward model, for the lineage."""
    for name, reward in built.items():
        if isinstance(reward, Model):
            yield name, sha256(reward.folder / WEIGHTS)


def _watch(config: RLHF, stage: Stage) -> HackingWatch | None:
    if config.watch is None:
        return None
    if config.watch.judge is None:
        return HackingWatch(config.watch)
    rows = questions(config.watch.prompts, config.watch.limit)
    return HackingWatch(config.watch, Exam(config.watch, rows, stage.policy, stage.file))


def measured(monitors: Sequence[Own]) -> dict[str, float]:
    """What they add to the metrics: β, λ, the held-out judge's score."""
    return {name: value for monitor in monitors for name, value in monitor.measured().items()}


def summary(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """First and last logged value of what the card shows."""
    steps = [entry for entry in history if "reward" in entry]
    names = sorted(
        {name for entry in steps for name in entry if name.startswith(("reward", "kl", "completions/mean_l"))}
    )
    values = {name: [entry[name] for entry in steps if entry.get(name) is not None] for name in names}
    return {name: {"first": found[0], "last": found[-1]} for name, found in values.items() if found}
