"""What the parent itself says to the requests, before anybody judges it: drawn in blocks, each on disk when it is
done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from alignstack.core.messages import digest
from alignstack.training import lineage, trainer
from alignstack.training.feedback.case import Case
from alignstack.training.feedback.draw import number
from alignstack.training.feedback.kept import Kept
from alignstack.training.monitor import Now
from alignstack.training.progress import Progress
from alignstack.training.recipe import Strict

if TYPE_CHECKING:
    from alignstack.training.stage import Stage

FILE = "answers.jsonl"
BLOCK = 64
"""Requests that are answered, and then kept, together."""


class Answers(Strict):
    """`answers` of a recipe: how the parent draws them."""

    temperature: float = Field(default=1.0, ge=0)
    """Bai et al. (2022) draw at 1; 0 is greedy."""
    max_tokens: int = Field(default=128, ge=1)
    """Of an answer; one that does not end within them is dropped."""
    batch: int = Field(default=64, ge=1)
    """Answers that are drawn together."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return {} if data == "parent" else data


def sample(stage: Stage, cases: Sequence[Case], config: Answers, count: int) -> dict[str, list[str]]:
    """`count` answers to each case, by its id; empty where one did not end. Blocks that a killed run has drawn are read
    again."""
    version = digest(lineage.read(stage.parent).weights, config.model_dump(mode="json"), count, stage.recipe.seed)
    kept = Kept(stage.work / FILE, version)
    bar, speak = Progress(f"{stage.recipe.name}: answers"), None
    bar.begin(Now(step=0, steps=len(cases), epoch=0.0))
    for start in range(0, len(cases), BLOCK):
        block = cases[start : start + BLOCK]
        if any(case.id not in kept for case in block):
            speak = speak or speaker(stage, config)
            for case, said in zip(block, speak(block, count, start), strict=True):
                kept.add({"id": case.id, "request": case.request, "answers": said})
        bar.step(Now(step=start + len(block), steps=len(cases), epoch=0.0))
    bar.end(Now(step=len(cases), steps=len(cases), epoch=0.0))
    kept.close(case.id for case in cases)
    return {case.id: list(kept.rows[case.id]["answers"]) for case in cases}


Speaker = Callable[[Sequence[Case], int, object], list[list[str]]]


def speaker(stage: Stage, config: Answers) -> Speaker:
    """The parent, loaded: cases, answers to each, and what the draw is for → answers."""
    model, tokenizer = stage.load()
    model.to(trainer.device())  # type: ignore[arg-type]  # its stub is wrong

    def speak(cases: Sequence[Case], count: int, purpose: object) -> list[list[str]]:
        asked = [case.prompt for case in cases for _ in range(count)]
        made = trainer.generate(
            model, tokenizer, asked, max_tokens=config.max_tokens, temperature=config.temperature,
            seed=number(stage.recipe.seed, "answers", purpose), batch=config.batch,
        )  # fmt: skip
        return [made[i : i + count] for i in range(0, len(made), count)]

    return speak
