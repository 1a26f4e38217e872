"""What rewards see, and what a reward is. Nothing here knows the trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from alignstack.policy import Policy
from alignstack.training.recipe import Strict

Side = Literal["harmful", "benign"]
SIDES: frozenset[str] = frozenset({"harmful", "benign"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sampled answer to one request."""

    prompt: Sequence[Mapping[str, str]]
    """The conversation so far: `role` and `content` of each turn."""
    text: str
    """Without special tokens."""
    ids: Sequence[int] = ()
    """Its tokens, the mark of its end included."""
    ended: bool = True
    """False: it was cut off at the most tokens allowed."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the row: `label`, `hazard` …"""

    @property
    def request(self) -> str:
        """The newest user turn."""
        return next((turn["content"] for turn in reversed(self.prompt) if turn["role"] == "user"), "")

    @property
    def side(self) -> str | None:
        """`harmful` or `benign`, as the row says."""
        return self.row.get("label") or self.row.get("side")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reward is built."""

    file: Path
    """The recipe."""
    policy: Policy
    tokenizer: Any
    """Of the policy that is trained."""


class Keys(Strict):
    """What every entry of `rewards` may say."""

    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """Of its column in the metrics; unique."""
    weight: float = 1.0
    """Rewards are added up with these."""


class Reward(Protocol):
    """Scores answers; None where it has nothing to say about one."""

    sides: frozenset[str]
    """Of which rows it scores the answers."""

    def score(self, answers: Sequence[Answer]) -> list[float | None]: ...
