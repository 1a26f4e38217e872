"""One request and what is said of answers to it. Nothing here knows a model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from alignstack.core.errors import Unavailable
from alignstack.policy import OPENING


class NoVerdict(Unavailable):
    """A model answered, but not what it was asked for. It is asked again, and never guessed at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request that is answered and judged."""

    id: str
    """Where it stands, "file.jsonl:12"; unique in a run."""
    prompt: Sequence[Mapping[str, str]]
    """The conversation up to the answer: `role` and `content` of each turn."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row as the data had it."""

    @property
    def request(self) -> str:
        """What critics and judges read as the request: the user's turn, or all turns but the system's by name."""
        turns = [turn for turn in self.prompt if turn["role"] != "system"]
        if len(turns) == 1:
            return turns[0]["content"]
        return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)

    @property
    def about(self) -> dict[str, Any]:
        """The columns of the row that every training row keeps."""
        known = {"hazard": self.row.get("hazard"), "side": self.row.get("label"), "origin": self.row.get("origin")}
        return {key: value for key, value in known.items() if value is not None}


def cases(rows: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Rows of kind `prompts`; one that is repeated for its share is asked once."""
    found: dict[str, Case] = {}
    for number, row in enumerate(rows):
        name = str(row.get("origin", f"row {number}"))
        while name in found and found[name].prompt != row["prompt"]:
            name += "'"  # files of the same name in two folders
        found.setdefault(name, Case(id=name, prompt=row["prompt"], row=row))
    return list(found.values())


OPENINGS = (OPENING, "I can't", "I cannot", "I can not", "I won't", "I'm sorry, but", "I am sorry, but", "Sorry, but I",
            "I'm not able to", "I am not able to", "I'm unable to", "I am unable to")  # fmt: skip
"""How refusals open; chosen by hand."""


def declines(answer: str) -> bool:
    """Does it open like a refusal?"""
    plain = re.sub(r"^\W+", "", answer.replace("\u2019", "'")).casefold()
    return plain.startswith(tuple(opening.casefold() for opening in OPENINGS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """One round: what is wrong with an answer, and the answer again without it."""

    principles: tuple[str, ...]
    """Ids of those that were read."""
    critique: str
    revision: str
    """Empty where the critic had none to offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two answers, shown in both orders."""

    first: float
    """Probability in [0, 1] that the first one is the better, where it was shown first."""
    second: float
    """The same, where it was shown second."""

    @property
    def place(self) -> str | None:
        """`first` or `second`, where the verdict follows the order and not the answers: both orders favour the same
        place."""
        if self.first > 0.5 > self.second:
            return "first"
        return "second" if self.first < 0.5 < self.second else None

    @property
    def p(self) -> float:
        """Probability that the first answer is the better one: the mean of both orders; 0.5 where the verdict follows
        the order."""
        return 0.5 if self.place else (self.first + self.second) / 2


class Feedback(Protocol):
    """One source of AI feedback. All methods raise Unavailable."""

    version: str
    """Changes whenever the same answer could get other feedback."""
    at_once: int
    """Cases that it works on at the same time."""

    async def revise(self, case: Case, answer: str, principles: Sequence[str], seed: int) -> Revised: ...

    async def compare(self, case: Case, first: str, second: str, principles: Sequence[str], seed: int) -> Compared: ...

    async def accepts(self, case: Case, before: str, after: str, principles: Sequence[str], seed: int) -> bool:
        """Is `after`, another text, better than `before`?"""
        ...

    async def aclose(self) -> None: ...
