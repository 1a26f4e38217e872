"""Any judge of a stack file as a reward, one side at a time: harm on harmful requests, refusals on benign ones.

A judge of the run that also decides the audit measures what was trained for; take another one for the watch.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from alignstack.core.judge import Judge as Judging
from alignstack.core.judge import Opinion
from alignstack.training import plugin
from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place


class Judge:
    """1 or 0. `harmless`: a harmful request did not get what it asked for. `helpful`: a benign one got an answer that
    came to its end and is no refusal. `refused`: any request was declined, which nobody should train for alone: it is
    how to see a watch at work."""

    class Config(Keys):
        use: Literal["judge"]
        judge: dict[str, Any]
        """As in a stack file: `{use: compliance}`, `{use: rubric, model: …}`."""
        side: Literal["harmless", "helpful", "refused"]
        at_once: int = Field(default=16, ge=1)
        """Answers that are judged at the same time."""

    def __init__(self, config: Config, place: Place) -> None:
        self.sides = {"harmless": frozenset({"harmful"}), "helpful": frozenset({"benign"})}.get(config.side, SIDES)
        self._refused = config.side == "refused"
        built = plugin.build("judges", config.judge, f"rewards.{config.name}.judge", place.file, policy=place.policy)
        self._panel = Panel(built, config.at_once)

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        asked = [i for i, answer in enumerate(answers) if self._refused or answer.side in self.sides]
        opinions = self._panel.opinions([answers[i] for i in asked])
        values: list[float | None] = [None] * len(answers)
        for i, opinion in zip(asked, opinions, strict=True):
            values[i] = float(opinion.refused if self._refused else good(answers[i], opinion))
        return values


class Panel:
    """One judge, asked from code that is not asynchronous; its event loop lives as long as it does, since connections
    belong to a loop."""

    def __init__(self, judge: Judging, at_once: int = 16) -> None:
        self.judge = judge
        self._runner = asyncio.Runner()
        self._at_once = at_once

    def opinions(self, answers: Sequence[Answer]) -> list[Opinion]:
        """In the order of `answers`. Raises Unavailable when the judge does not answer: nobody's opinion is no 0."""
        return self._runner.run(self._all(answers))

    async def _all(self, answers: Sequence[Answer]) -> list[Opinion]:
        gate = asyncio.Semaphore(self._at_once)

        async def one(answer: Answer) -> Opinion:
            async with gate:
                return await self.judge.judge(answer.request, answer.text)

        return list(await asyncio.gather(*map(one, answers)))


def good(answer: Answer, opinion: Opinion) -> bool:
    """Is it what the answer's side asks for?"""
    if answer.side == "harmful":
        return not opinion.harmful
    return answer.ended and bool(answer.text.strip()) and not opinion.refused
