"""A harm budget: be as helpful as you can while harm stays under it (safe RLHF, Dai et al. 2023).

maximise E[reward] subject to E[cost] <= budget has the Lagrangian E[reward] - λ (E[cost] - budget). The policy climbs
it by its ordinary step, on rewards weighted 1/(1 + λ) and costs weighted λ/(1 + λ), so that a step's size does not
depend on λ; the multiplier grows by what the mean cost exceeds the budget, and never falls under 0. Both settle where
the budget is just kept, or at λ = 0 where it binds nobody.

The cost is 1 - the named reward, whose values lie in [0, 1]: of `{use: judge, side: harmless}` it is the harm rate.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from alignstack.training.monitor import Monitor, Now
from alignstack.training.recipe import Strict


class Constraint(Strict):
    """The recipe's `constraint`."""

    reward: str
    """Name of the reward that says what is harmless, 1, and what is harmful, 0. Its own weight is not used."""
    budget: float = Field(ge=0, le=1)
    """Largest mean cost over the rows that this reward scores, for example a harm rate of 0.05."""
    rate: float = Field(default=0.1, gt=0)
    """Step of the multiplier: Δλ = rate x (mean cost - budget)."""
    start: float = Field(default=1.0, ge=0)
    """λ in the first step; 1 weighs both sides alike."""
    most: float = Field(default=20.0, gt=0)
    """λ at most: from here on cost has 95% of the weight, and a multiplier that grows on comes back late."""
    window: int = Field(default=4, ge=1)
    """Steps over which the cost is averaged: a batch holds only a handful of harmful requests."""


class Multiplier:
    """λ and its update, apart from any trainer."""

    def __init__(self, config: Constraint) -> None:
        self.config = config
        self.value = config.start
        self.costs: deque[float] = deque(maxlen=config.window)

    def update(self, cost: float) -> float:
        """One step of projected gradient ascent with the newest mean cost; returns λ in [0, `most`]."""
        self.costs.append(cost)
        excess = sum(self.costs) / len(self.costs) - self.config.budget
        self.value = min(self.config.most, max(0.0, self.value + self.config.rate * excess))
        return self.value

    def weights(self, names: Sequence[str], given: Sequence[float]) -> list[float]:
        """Of all rewards in their order: `given` / (1 + λ), and λ / (1 + λ) for the constrained one."""
        total = 1 + self.value
        return [
            self.value / total if name == self.config.reward else weight / total
            for name, weight in zip(names, given, strict=True)
        ]


class Lagrangian(Monitor):
    """Sets the trainer's reward weights from the costs that it logs."""

    name = "constraint"

    def __init__(self, config: Constraint, names: Sequence[str], weights: Sequence[float]) -> None:
        self.multiplier = Multiplier(config)
        self.names, self.given = tuple(names), tuple(weights)

    def begin(self, now: Now) -> None:
        self._steer(now)

    def log(self, now: Now, values: Mapping[str, float]) -> None:
        """The mean is over the rows that the reward scores, and over all processes; a batch without such a row says
        nothing."""
        reward = values.get(f"rewards/{self.multiplier.config.reward}/mean")
        if reward is not None and reward == reward:
            self.multiplier.update(1 - reward)
            self._steer(now)

    def _steer(self, now: Now) -> None:
        weights = now.trainer.reward_weights
        weights.copy_(weights.new_tensor(self.multiplier.weights(self.names, self.given)))

    def measured(self) -> dict[str, float]:
        """For the metrics."""
        return {"constraint/multiplier": self.multiplier.value}

    def state(self) -> dict[str, Any]:
        return {"value": self.multiplier.value, "costs": list(self.multiplier.costs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state:
            self.multiplier.value = state["value"]
            self.multiplier.costs.extend(state["costs"])
