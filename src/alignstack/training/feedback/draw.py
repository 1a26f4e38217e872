"""Which principles are read: drawn anew for every round and every pair, as in Bai et al. (2022)."""

import random
from collections.abc import Iterable, Mapping

from pydantic import Field

from alignstack.core.errors import ConfigError, Problem, nearest
from alignstack.policy import Policy
from alignstack.training.recipe import Strict


class Principles(Strict):
    """`principles` of a recipe."""

    sample: int = Field(default=1, ge=1)
    """So many at a time, different ones; all of them when there are no more."""
    only: list[str] = Field(default_factory=list)
    """Ids; all principles of the policy when left out."""
    weights: dict[str, float] = Field(default_factory=dict)
    """By id, how much more often than others, whose weight is 1; 0: never."""


class Drawn:
    """Draws depend on the seed and on what they are for, not on one another: a resumed run draws the same."""

    def __init__(self, config: Principles, policy: Policy, *, seed: int, file: str) -> None:
        """Raises ConfigError for ids that the policy does not have."""
        known = [principle.id for principle in policy.principles]
        _check(config, known, file)
        wanted = {name: config.weights.get(name, 1.0) for name in config.only or known}
        self._weights = {name: weight for name, weight in wanted.items() if weight > 0}
        self._count, self._seed = min(config.sample, len(self._weights)), seed
        if not self._weights:
            raise ConfigError([Problem(where=f"{file}: principles", what="the weights leave no principle to draw")])

    def draw(self, *purpose: object) -> tuple[str, ...]:
        """Ids, in the order of the policy or of `only`."""
        rng = random.Random(f"{self._seed}:{purpose}")
        # without replacement, in proportion to the weights: the largest u ** (1 / w) (Efraimidis and Spirakis 2006)
        keys = {name: rng.random() ** (1 / weight) for name, weight in self._weights.items()}
        drawn = sorted(keys, key=lambda name: keys[name], reverse=True)[: self._count]
        return tuple(name for name in self._weights if name in drawn)


def number(seed: int, *purpose: object) -> int:
    """A seed in [0, 2**31) for one purpose."""
    return random.Random(f"{seed}:{purpose}").randrange(2**31)


def _check(config: Principles, known: Iterable[str], file: str) -> None:
    names: Mapping[str, Iterable[str]] = {"only": config.only, "weights": config.weights}
    found = [
        Problem(where=f"{file}: principles.{key}", what=f"no principle {name!r} in the policy{nearest(name, known)}")
        for key, ids in names.items()
        for name in ids
        if name not in known
    ]
    found += [
        Problem(where=f"{file}: principles.weights.{name}", what="should not be negative")
        for name, weight in config.weights.items()
        if weight < 0
    ]
    if found:
        raise ConfigError(found)
