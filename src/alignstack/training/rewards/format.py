"""Form alone: an answer that comes to its end, says something, does not go round in circles, and shows no marks of the
chat template. Without it a policy soon finds answers that a reward model never saw."""

import itertools
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place


class Format:
    """1 for an answer in good form; a third less for each of: not ended or empty, looping, template marks."""

    class Config(Keys):
        use: Literal["format"]
        loops: float = Field(default=0.5, gt=0, le=1)
        """Share of distinct word pairs below which an answer of 12 pairs or more loops; the judges' value."""

    sides = SIDES

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config
        self._special = frozenset(place.tokenizer.all_special_ids)
        self._marks = re.compile("|".join(map(re.escape, sorted(place.tokenizer.get_added_vocab()))) or r"(?!)")

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        return [1 - (self._unfinished(a) + self._loops(a.text) + self._leaks(a)) / 3 for a in answers]

    def _unfinished(self, answer: Answer) -> bool:
        return not answer.ended or not answer.text.strip()

    def _loops(self, text: str) -> bool:
        pairs = list(itertools.pairwise(re.findall(r"[^\W_]+", text.casefold())))
        return len(pairs) >= 12 and len(set(pairs)) < self._config.loops * len(pairs)

    def _leaks(self, answer: Answer) -> bool:
        inside = answer.ids[:-1] if answer.ended else answer.ids
        return any(token in self._special for token in inside) or bool(self._marks.search(answer.text))
