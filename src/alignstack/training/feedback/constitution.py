"""Any model that reads the principles: critic of its own or of another model's answers, and judge between two.

Sees: what the model behind it sees, in any language, harm as the principles describe it.
Does not see: what that model is fooled by. Answers are shown between tags that they cannot close, with the demand to
follow nothing in them; how often a verdict follows the order of the answers is measured, not assumed. A model of a few
million parameters cannot do this; `guard` stands in for it.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from alignstack.core.messages import Conversation, Message, digest
from alignstack.core.ports import ModelClient, Sampling
from alignstack.policy import Policy, render
from alignstack.training import plugin
from alignstack.training.feedback.ask import complete
from alignstack.training.feedback.case import Case, Compared, NoVerdict, Revised
from alignstack.training.recipe import Strict

LETTER = re.compile(r"\W*(?i:(?:the |my )*(?:better |best )?(?:answer|response|choice|verdict)\W*(?:is\W*)?)?([AB])\W*")
"""A line that is a verdict: `A`, `(B)`, `**Answer: A**`."""
OTHERS = 5
"""Most likely tokens to ask for beside each one, so that both letters are among them."""


Letter = Literal["A", "B"]


class Constitution:
    """Bai et al. (2022): critique and revision by sampled principles, and preferences as soft labels."""

    class Config(Strict):
        use: Literal["constitution"]
        model: dict[str, Any]
        """As in a stack file: `{use: openai_http, base_url: …, model: …}`, or any other model."""
        temperature: float = Field(default=0.0, ge=0)
        """Of critiques, revisions and votes; 0 is greedy."""
        samples: int = Field(default=1, ge=1)
        """Votes for each order of two answers, where the server gives no log-probabilities; more than one needs a
        temperature."""
        logprobs: bool = True
        """Ask the server for the log-probabilities of the letters; false for servers that refuse such requests."""
        max_tokens: int = Field(default=512, ge=1)
        """Of each critique, revision and verdict; thinking included."""
        at_once: int = Field(default=16, ge=1)
        """Cases that are worked on at the same time."""

        @model_validator(mode="after")
        def _can_differ(self) -> "Constitution.Config":
            if self.samples > 1 and self.temperature == 0:
                raise ValueError("`samples` above 1 needs a `temperature` above 0: greedy votes are all the same")
            return self

    def __init__(self, config: Config, *, policy: Policy, file: Path, where: str) -> None:
        """`where`: the place of the model's block in the recipe `file`. Raises ConfigError."""
        self._config, self._policy = config, policy
        self._model: ModelClient = plugin.build("models", config.model, where, file)
        self.at_once = config.at_once
        asked = config.model_dump(mode="json", exclude={"model", "at_once"})
        self.version = digest("constitution 1", self._model.version, asked, policy.fingerprint)

    async def revise(self, case: Case, answer: str, principles: Sequence[str], seed: int) -> Revised:
        shown = {"request": case.request, "answer": answer}
        critique = await self._ask(render.critique(self._policy, *principles), shown, seed)
        revision = await self._ask(render.revision(self._policy, *principles), {**shown, "critique": critique}, seed)
        return Revised(principles=tuple(principles), critique=critique, revision=revision)

    async def compare(self, case: Case, first: str, second: str, principles: Sequence[str], seed: int) -> Compared:
        rules = render.preference(self._policy, *principles)
        a_first = await self._prefers_a(rules, case.request, first, second, seed)
        a_second = await self._prefers_a(rules, case.request, second, first, seed)
        return Compared(first=a_first, second=1 - a_second)

    async def accepts(self, case: Case, before: str, after: str, principles: Sequence[str], seed: int) -> bool:
        return (await self.compare(case, after, before, principles, seed)).p > 0.5

    async def aclose(self) -> None:
        """Closes the connections of the running loop."""
        close = getattr(self._model, "aclose", None)
        if close is not None:
            await close()

    async def _ask(self, rules: str, shown: dict[str, str], seed: int) -> str:
        text, _ = await complete(self._model, question(rules, **shown), self._sampling(seed))
        return text

    async def _prefers_a(self, rules: str, request: str, a: str, b: str, seed: int) -> float:
        """Probability that answer A is the better one: from the letters' log-probabilities, else the share of votes."""
        asked = question(rules, request=request, answer_a=a, answer_b=b)
        votes: list[bool] = []
        for i in range(self._config.samples):
            text, more = await complete(self._model, asked, self._sampling(seed + i, logprobs=self._config.logprobs))
            letter, first = verdict(text)
            known = probability(letter, more, first=first)
            if known is not None:
                return known
            votes.append(letter == "A")
        return sum(votes) / len(votes)

    def _sampling(self, seed: int, *, logprobs: bool = False) -> Sampling:
        more = json.dumps({"logprobs": True, "top_logprobs": OTHERS}) if logprobs else ""
        config = self._config
        return Sampling(seed=seed, temperature=config.temperature, max_tokens=config.max_tokens, more=more)


def question(rules: str, **shown: str) -> Conversation:
    """The rules as the system's words; everything to be judged between tags that it cannot close itself."""
    return (Message(role="system", content=rules), Message(role="user", content=render.tagged(**shown)))


def verdict(text: str) -> tuple[Letter, bool]:
    """The letter of a reply by its first line, else by its last; and whether it was the first. Raises NoVerdict when
    neither is a verdict, or each another one."""
    lines = text.strip().splitlines() or [""]
    first, last = LETTER.fullmatch(lines[0]), LETTER.fullmatch(lines[-1])
    found = first or last
    if found is None or (first and last and first[1] != last[1]):
        raise NoVerdict(f"the judge gave no verdict: {text[:80]!r}; it is to answer A or B")
    return "A" if found[1] == "A" else "B", first is not None


def probability(letter: Letter, more: Sequence[str], *, first: bool = True) -> float | None:
    """P(A) against P(B) where the reply says its letter (for the first or the last time), by the log-probabilities that
    came with it in the form of chat completions; None when there are none."""
    tokens = [token for text in more for token in _tokens(text)]
    spoken = [token for token in tokens if _bare(token.get("token")) == letter]
    if not spoken:
        return None
    said = spoken[0 if first else -1]
    masses = {"A": 0.0, "B": 0.0}
    others = said.get("top_logprobs")
    entries = [entry for entry in others if isinstance(entry, dict)] if isinstance(others, list) else []
    for entry in {str(entry.get("token")): entry for entry in [*entries, said]}.values():
        name, value = _bare(entry.get("token")), entry.get("logprob")
        if name in masses and isinstance(value, int | float) and not math.isnan(value):
            masses[name] += math.exp(min(value, 0.0))
    total = sum(masses.values())
    return masses["A"] / total if total > 0 else None


def _tokens(text: str) -> list[dict[str, Any]]:
    given = json.loads(text).get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    return [token for token in content if isinstance(token, dict)] if isinstance(content, list) else []


def _bare(token: object) -> str:
    return re.sub(r"\W", "", token) if isinstance(token, str) else ""
