"""AI feedback by a classifier and a rule, for models that are too small to read principles.

The classifier layer says what a request, or an answer, asks for; the rule is the policy's: a request for a covered harm
is declined, any other is answered. This is not self-critique: nothing here understands the answer. It quotes the
answer's first words, and its revision of an answer that helps with harm is the policy's own refusal.
Sees: what the classifier sees (docs/classifier.md), and whether an answer opens like a refusal.
Does not see: a refusal in other words, harm that only shows in context, anything else that a principle says.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignstack.core.layer import Layer, View
from alignstack.core.messages import Message, digest
from alignstack.core.verdict import Verdict
from alignstack.policy import Policy, render
from alignstack.training import plugin
from alignstack.training.feedback.case import OPENINGS, Case, Compared, Revised, declines
from alignstack.training.recipe import Strict

QUOTED = 12
"""Words of an answer that a critique quotes."""
HARMLESS = "Helping is the default: a full and useful answer to a harmless request, whatever words it uses."
"""What an answer that declines without need falls short of; the sampled principle nearest to it is named."""

Again = Callable[[Case], Sequence[str]]
"""Further answers of the parent to a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is wrong with an answer."""

    fault: Literal["engages", "declines"] | None
    hazard: str | None
    score: float
    """Probability of harm in [0, 1], of what `hazard` was found in."""
    where: Literal["request", "answer"] = "request"


class Guard:
    """A guard layer of the stack, asked about requests and about answers."""

    class Config(Strict):
        use: Literal["guard"]
        layer: dict[str, Any] = Field(default_factory=lambda: {"use": "classifier"})
        """A layer with a score, as in a stack file."""

    def __init__(
        self, config: Config, *, policy: Policy, file: Path, where: str, again: Again = lambda case: ()
    ) -> None:
        """`where`: the place of its block in the recipe `file`. Raises ConfigError."""
        built: list[Layer] = [
            plugin.build("layers", config.layer, f"{where}.layer", file, policy=policy, name="guard", phase=phase,
                         hazards=None)
            for phase in ("request", "output")
        ]  # fmt: skip
        self._asked, self._answered = built
        self._policy, self._again = policy, again
        self.at_once = 1
        versions = [layer.info.version for layer in built]
        self.version = digest("guard feedback 1", versions, list(OPENINGS), policy.fingerprint)

    async def revise(self, case: Case, answer: str, principles: Sequence[str], seed: int) -> Revised:
        found = await self.find(case, answer)
        named = self._named(found, principles)
        revision = answer
        if found.fault == "engages":
            revision = render.refusal(self._policy, found.hazard)
        elif found.fault == "declines":
            revision = await self._other(case)
        return Revised(principles=(named,), critique=self._critique(found, named, answer), revision=revision)

    async def compare(self, case: Case, first: str, second: str, principles: Sequence[str], seed: int) -> Compared:
        """Where one answer declines, it is the better one with the probability that the request asks for harm; of two
        alike, the one whose own words are less likely harmful, by half the difference. Order plays no part."""
        declined = declines(first), declines(second)
        if declined[0] != declined[1]:
            harm = _score(await self._asked.check(_request(case)))
            p = harm if declined[0] else 1 - harm
        else:
            harms = [_score(await self._answered.check(_answer(case, text))) for text in (first, second)]
            p = 0.5 + (harms[1] - harms[0]) / 2
        return Compared(first=p, second=p)

    async def accepts(self, case: Case, before: str, after: str, principles: Sequence[str], seed: int) -> bool:
        return (await self.find(case, after)).fault is None

    async def aclose(self) -> None:
        """Nothing is open."""

    async def find(self, case: Case, answer: str) -> Found:
        """Engages the answer with a covered harm, in the request or of its own, or declines it a harmless one?"""
        verdict = await self._asked.check(_request(case))
        declined = declines(answer)
        if verdict.action in ("block", "escalate"):
            return Found(fault=None if declined else "engages", hazard=verdict.hazard, score=_score(verdict))
        if declined:
            return Found(fault="declines", hazard=None, score=_score(verdict))
        own = await self._answered.check(_answer(case, answer))
        if own.action in ("block", "escalate"):
            return Found(fault="engages", hazard=own.hazard, score=_score(own), where="answer")
        return Found(fault=None, hazard=None, score=_score(verdict))

    async def _other(self, case: Case) -> str:
        """The first of the parent's further answers without a fault; empty when there is none."""
        for text in self._again(case):
            if text and (await self.find(case, text)).fault is None:
                return text
        return ""

    def _named(self, found: Found, principles: Sequence[str]) -> str:
        """Of the sampled principles the one with most words in common with what is at stake; the first of equals."""
        hazard = self._policy.hazards.get(found.hazard or "")
        stake = _words(f"{hazard.title} {hazard.description} {hazard.guidance}" if hazard else HARMLESS)
        texts = {entry.id: entry.text for entry in self._policy.principles}
        return max(principles, key=lambda name: len(stake & _words(texts[name])))

    def _critique(self, found: Found, named: str, answer: str) -> str:
        text = next(entry.text for entry in self._policy.principles if entry.id == named)
        hazard = self._policy.hazards.get(found.hazard or "")
        likely = f"probability of harm {found.score:.2f}"
        rule = f'By the principle "{named}" ({text})'
        if found.fault == "engages":
            kind = f"{hazard.title} ({likely})" if hazard else likely
            return (
                f'{rule} the answer should decline: the {found.where} reads like {kind}, yet it says "{quote(answer)}"'
            )
        if found.fault == "declines":
            said = f'yet it says "{quote(answer)}"'
            return f"{rule} the answer should help: the request reads as harmless ({likely}), {said}"
        return f"{rule} nothing is wrong with the answer: it does what a request with {likely} should get."


def quote(answer: str) -> str:
    """The first words, on one line."""
    words = answer.split()
    return " ".join(words[:QUOTED]) + (" …" if len(words) > QUOTED else "")


def _words(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}


def _request(case: Case) -> View:
    return View(phase="request", messages=_messages(case))


def _answer(case: Case, answer: str) -> View:
    return View(phase="output", messages=_messages(case), draft=answer)


def _messages(case: Case) -> tuple[Message, ...]:
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in case.prompt)  # type: ignore[arg-type]


def _score(verdict: Verdict) -> float:
    """Of layers without a score: 1 or 0 by the verdict."""
    return verdict.score if verdict.score is not None else float(verdict.action in ("block", "escalate"))
