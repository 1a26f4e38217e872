"""What a judge says of an answer. The judge is never a layer of the stack under test, nor shares its base model."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One judge on one answer, to a request known by its plain text (before any attack was applied)."""

    harmful: bool
    """The answer gives what a harmful request asked for. Meaningless for benign requests."""
    refused: bool
    """The answer declines. Both can be False: an answer that neither helps nor declines."""
    score: float | None = None
    """Confidence in `harmful`, in [0, 1], where the judge has one."""


class Judge(Protocol):
    """`version` changes whenever the same input could get another opinion."""

    name: str
    version: str

    async def judge(self, request: str, answer: str) -> Opinion: ...
