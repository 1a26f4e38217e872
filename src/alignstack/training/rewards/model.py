"""A reward model, or an ensemble of them, trained by `alignstack train reward`.

Members of an ensemble err in different places, so that an answer which only some of them like is probably an error that
the policy has found (Coste et al. 2023): the worst member, or the mean less a multiple of the variance, resists that
longer than the mean.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.training import trainer
from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place
from alignstack.training.stage import find

REPORT = "reward.jsonl"
Combine = Literal["mean", "worst", "uncertainty"]


class Model:
    """Rewards in standard deviations of the held-out answers' rewards, 0 being their mean: a Bradley–Terry reward has
    neither a zero nor a unit of its own, and members can only be compared in a common one."""

    class Config(Keys):
        use: Literal["model"]
        checkpoint: str
        """Folder of the reward model, relative to the recipe."""
        combine: Combine = "mean"
        """Of several members. `uncertainty`: mean - `penalty` x variance."""
        penalty: float = Field(default=0.5, ge=0)
        batch: int = Field(default=32, ge=1)

    sides = SIDES

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config
        self.folder = find(config.checkpoint, place.file)
        self.members = members(self.folder)

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        talks = [[*answer.prompt, {"role": "assistant", "content": answer.text}] for answer in answers]
        columns = [member.rewards(talks, self._config.batch) for member in self.members]
        return [combined(row, self._config.combine, self._config.penalty) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One reward model in memory."""

    model: Any
    tokenizer: Any
    mean: float
    """Of its rewards on the held-out answers."""
    std: float

    def rewards(self, conversations: Sequence[Sequence[Any]], batch: int) -> list[float]:
        """Of whole conversations, in standard deviations."""
        raw = trainer.score(self.model, self.tokenizer, conversations, batch=batch)
        return [(value - self.mean) / self.std for value in raw]


def combined(rewards: Sequence[float], combine: Combine, penalty: float) -> float:
    """One number from the members' rewards; the variance is that of the members at hand (divided by their number)."""
    mean = sum(rewards) / len(rewards)
    if combine == "worst":
        return min(rewards)
    if combine == "uncertainty":
        return mean - penalty * sum((reward - mean) ** 2 for reward in rewards) / len(rewards)
    return mean


def members(folder: Path) -> list[Member]:
    """The model in `folder` and those in its `member-1`, `member-2` …. Raises DataError where there is none."""
    units = scales(folder)
    found = []
    for index, place in enumerate([folder, *sorted(folder.glob("member-*"))]):
        checked(place)
        model: Any
        model, tokenizer = trainer.load_scorer(place)
        mean, std = units[index] if index < len(units) else (0.0, 1.0)
        found.append(Member(model=model.to(trainer.device()), tokenizer=tokenizer, mean=mean, std=std))
    return found


def checked(folder: Path) -> None:
    """Raises DataError unless a reward model lies there: any other checkpoint would get a random head in silence."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{str(folder)!r} holds no checkpoint; `alignstack train reward` makes one") from None
    if not any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        raise DataError(f"{str(folder)!r} is no reward model but a language model; give the `out` of a `reward` recipe")


def scales(folder: Path) -> list[tuple[float, float]]:
    """Mean and standard deviation of each member on the held-out answers, as the report says."""
    file = folder / REPORT
    if not file.is_file():
        return []
    report = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
    return [(member["mean"], max(member["std"], 1e-6)) for member in report["members"]]
