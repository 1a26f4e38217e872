"""Iterative preference optimisation: the current weights answer, a judge ranks, best against worst is trained on.

Each round ends in a checkpoint on disk, from which the next one is loaded, as the policy and as the reference
(iterative DPO: Xiong et al. 2024; Yuan et al. 2024). So the reference is never stale, a killed run goes on in the round
where it was, and every round's pairs can be read afterwards (`round-1.jsonl` …). TRL's own online trainer
(experimental) samples anew for every batch, keeps one reference throughout and none of the answers; it is not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignstack.core.errors import ConfigError, DataError, Problem
from alignstack.training import lineage, rewards, trainer
from alignstack.training.recipe import Strict
from alignstack.training.rewards.answer import Answer, Place, Reward
from alignstack.training.rewards.model import Model

if TYPE_CHECKING:
    from alignstack.training.stage import Stage

Row = dict[str, Any]
Ranker = Callable[[Sequence[Mapping[str, Any]], Sequence[Sequence[str]]], list[list[float]]]
"""Rows of kind `prompts`, and for each its answers → a score for each answer; higher is better. Answers that did not
come to their end are not shown to rankers and in no pair."""
Fit = Callable[[list[Row], Path, trainer.Run], trainer.Trained]
"""Pairs, the checkpoint to start from (and to refer to), how to run → trained."""

ROUNDS = "rounds.jsonl"


class Online(Strict):
    """Rounds in place of given pairs."""

    rounds: int = Field(default=3, ge=1)
    feedback: list[rewards.Config] = Field(min_length=1)
    """Who ranks: judges, guards, reward models as in `rewards` of an `rlhf` recipe, added up with their weights."""
    answers: int = Field(default=4, ge=2)
    """Sampled for each prompt and round."""
    prompts: int | None = Field(default=None, ge=1)
    """Of each round, drawn in turn; all of them when left out."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=96, ge=1)
    """Of an answer; one that does not end within them is left out."""
    gap: float = Field(default=0.0, ge=0)
    """Best and worst answer become a pair when their scores differ by more."""
    batch: int = Field(default=64, ge=1)
    """Answers sampled at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round that is done, as `rounds.jsonl` says it."""

    round: int
    prompts: int
    pairs: int
    score: float
    """Mean over all answers that ended: what the judge thinks of the weights the round started from."""
    ended: float
    """Share of the answers that came to their end."""
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


def rounds(
    stage: Stage, config: Online, rows: Sequence[Row], fit: Fit, run: Callable[[], trainer.Run]
) -> trainer.Trained:
    """All rounds. The result is the last round's checkpoint, or that of the last round in which the ranker told any
    answers apart. Raises DataError when it told none apart in the first; a round that a monitor condemns ends all."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        what = "samples in one process; start it without accelerate"
        raise ConfigError([Problem(where=f"{stage.file}: online", what=what)])
    ranker, start, done = ranking(stage, config), stage.parent, _done(stage)
    for number in range(1, config.rounds + 1):
        folder = stage.work / f"round-{number}"
        if number > len(done):
            drawn = draw(rows, config.prompts, number)
            pairs, facts = _pairs(stage, config, drawn, ranker, start, number)
            if not pairs:
                break
            trained = fit(pairs, start, replace(run(), work=folder, seed=stage.recipe.seed + number))
            if trained.stop is not None and trained.stop.failed:
                return trained
            done.append(replace(facts, steps=trained.steps, tokens=trained.tokens, seconds=round(trained.seconds, 1)))
            assert trained.tokenizer is not None
            trainer.save(trained.model, trained.tokenizer, folder / "model")
            _write(stage.work / ROUNDS, [_plain(each) for each in done])
        start = folder / "model"
    if not done:
        raise DataError("the feedback tells no two answers apart, so that no pair is left to learn from: sample more "
                        "`answers`, at a higher `temperature`, or choose other feedback")  # fmt: skip
    stage.notes["rounds"] = [_plain(each) for each in done]
    return _last(start, done)


def _last(folder: Path, done: Sequence[Round]) -> trainer.Trained:
    model, tokenizer = trainer.load(folder)
    return trainer.Trained(
        model=model,
        tokenizer=tokenizer,
        steps=sum(each.steps for each in done),
        tokens=sum(each.tokens for each in done),
        seconds=sum(each.seconds for each in done),
    )


def _pairs(
    stage: Stage, config: Online, rows: Sequence[Row], ranker: Ranker, start: Path, number: int
) -> tuple[list[Row], Round]:
    """The round's pairs; those of a killed run are read again."""
    file = stage.work / f"round-{number}.jsonl"
    if file.is_file():
        facts, *pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return pairs, Round(**facts)
    answers = sample(start, rows, config, seed=1000 * stage.recipe.seed + number)
    scores = rank(ranker, rows, answers)
    found = [best_against_worst(*each, config.gap) for each in zip(rows, answers, scores, strict=True)]
    pairs = [pair for pair in found if pair is not None]
    kept = [score for s, a in zip(scores, answers, strict=True) for score, text in zip(s, a, strict=True) if text]
    facts = Round(
        round=number, prompts=len(rows), pairs=len(pairs), score=round(sum(kept) / max(len(kept), 1), 4),
        ended=round(len(kept) / (len(rows) * config.answers), 4),
    )  # fmt: skip
    _write(file, [_plain(facts), *pairs])
    return pairs, facts


def draw(rows: Sequence[Row], count: int | None, number: int) -> list[Row]:
    """The prompts of a round: the next `count`, from the first again after the last."""
    if count is None or count >= len(rows):
        return list(rows)
    first = (number - 1) * count
    return [rows[(first + i) % len(rows)] for i in range(count)]


def sample(start: Path, rows: Sequence[Row], config: Online, *, seed: int) -> list[list[str]]:
    """`answers` of the weights at `start` to each row; empty where one did not end."""
    model, tokenizer = trainer.load(start)
    model.to(trainer.device())  # type: ignore[arg-type]
    asked = [row["prompt"] for row in rows for _ in range(config.answers)]
    made = trainer.generate(
        model, tokenizer, asked, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed,
        batch=config.batch,
    )  # fmt: skip
    return [made[i : i + config.answers] for i in range(0, len(made), config.answers)]


def rank(ranker: Ranker, rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> list[list[float]]:
    """Scores; minus infinity for answers that did not end."""
    ended = [[text for text in texts if text] for texts in answers]
    scored = [iter(scores) for scores in ranker(rows, ended)]
    return [[next(s) if text else float("-inf") for text in texts] for s, texts in zip(scored, answers, strict=True)]


def best_against_worst(row: Row, answers: Sequence[str], scores: Sequence[float], gap: float) -> Row | None:
    """The first of the best against the first of the worst, of those that ended; None when they are too close."""
    there = [i for i, text in enumerate(answers) if text]
    if not there:
        return None
    best, worst = max(there, key=lambda i: scores[i]), min(there, key=lambda i: scores[i])
    if scores[best] - scores[worst] <= gap:
        return None
    about = {key: row[key] for key in ("hazard", "origin") if key in row} | {"side": row["label"]}
    said = {side: [{"role": "assistant", "content": answers[i]}] for side, i in (("chosen", best), ("rejected", worst))}
    return {"prompt": row["prompt"], **said, "scores": [scores[best], scores[worst]], **about}


def _done(stage: Stage) -> list[Round]:
    file = stage.work / ROUNDS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [Round(**json.loads(line)) for line in lines]


def _plain(facts: Round) -> Row:
    return {name: getattr(facts, name) for name in Round.__dataclass_fields__}


def _write(file: Path, lines: Sequence[Row]) -> None:
    """In one go: whoever is killed leaves the old file or the new one."""
    part = file.with_name(file.name + ".part")
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, file)


def ranking(stage: Stage, config: Online) -> Ranker:
    """The ranker that a recipe describes. Raises ConfigError, DataError."""
    place = Place(file=stage.file, policy=stage.policy, tokenizer=trainer.load(stage.parent)[1])
    entries = rewards.named(config.feedback, str(stage.file))
    built = rewards.build(entries, place)
    for name, reward in built.items():
        if isinstance(reward, Model):
            stage.uses[name] = lineage.read(reward.folder).weights
    return by_rewards(built, {entry.name: entry.weight for entry in entries}, place.tokenizer)


def by_rewards(built: Mapping[str, Reward], weights: Mapping[str, float], tokenizer: Any) -> Ranker:
    """The weighted sum of rewards; one that has nothing to say about an answer adds nothing."""

    def ids(text: str) -> list[int]:
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]

    def ranker(rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        flat = [Answer(prompt=row["prompt"], text=text, ids=ids(text), row=row)
                for row, texts in zip(rows, answers, strict=True) for text in texts]  # fmt: skip
        columns = [[weights[name] * (value or 0.0) for value in reward.score(flat)] for name, reward in built.items()]
        sums = iter([sum(values) for values in zip(*columns, strict=True)])
        return [[next(sums) for _ in texts] for texts in answers]

    return ranker
