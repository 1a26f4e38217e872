"""What a guard of the stack thinks of the answer: weights that write what the guard passes need it less often.

A guard that is trained against is no longer an independent measure of the weights; leave it out of the comparison.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from alignstack.core.layer import Layer, View
from alignstack.core.messages import Conversation, Message
from alignstack.core.verdict import Verdict
from alignstack.training import plugin
from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place


class Guard:
    """1 - the layer's score of the answer; 0 or 1 by its verdict where it does not score."""

    class Config(Keys):
        use: Literal["guard"]
        layer: dict[str, Any]
        """An output layer as in a stack file: `{use: classifier, model: embedded}`."""

    sides = SIDES

    def __init__(self, config: Config, place: Place) -> None:
        given: dict[str, Any] = {"name": config.name or "guard", "phase": "output", "hazards": None}
        where = f"rewards.{config.name}.layer"
        self._layer: Layer = plugin.build("layers", config.layer, where, place.file, policy=place.policy, **given)
        self._runner = asyncio.Runner()

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        return [self._one(answer) for answer in answers]

    def _one(self, answer: Answer) -> float | None:
        view = View(phase="output", messages=conversation(answer), draft=answer.text)
        return worth(self._runner.run(self._layer.check(view)))


def worth(verdict: Verdict) -> float | None:
    """Nothing is said of an answer that the layer could not look at."""
    if verdict.score is not None:
        return 1 - verdict.score
    return None if verdict.action == "abstain" else float(verdict.action != "block")


def conversation(answer: Answer) -> Conversation:
    """The turns before the answer, as layers see them."""
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in answer.prompt)  # type: ignore[arg-type]
