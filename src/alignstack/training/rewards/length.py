"""So much a token. A charge keeps answers brief; a payment is the classic way to spoil a policy."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place


class Length:
    """`per_token` x the tokens past the first `free`."""

    class Config(Keys):
        use: Literal["length"]
        per_token: float
        """Below 0 it charges, above it pays."""
        free: int = Field(default=0, ge=0)
        """Tokens that cost nothing."""

    sides = SIDES

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        return [self._config.per_token * max(0, len(answer.ids) - self._config.free) for answer in answers]
