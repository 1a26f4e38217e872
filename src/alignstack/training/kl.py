"""β that follows the KL divergence, in place of one that somebody guessed (Ziegler et al. 2019, section 2.2)."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from alignstack.training.monitor import Monitor, Now
from alignstack.training.recipe import Strict


class AdaptiveKL(Strict):
    """The recipe's `kl`."""

    target: float = Field(gt=0)
    """Nats an answer."""
    gain: float = Field(default=0.1, gt=0)
    """As in the paper: β changes by at most `gain` x 20% a step."""


class Controller(Monitor):
    """Raises β where the policy has gone further from its reference than `target`, lowers it where it has not."""

    name = "kl"

    def __init__(self, config: AdaptiveKL, beta: float) -> None:
        self.config, self.beta = config, beta

    def begin(self, now: Now) -> None:
        now.trainer.beta = self.beta

    def log(self, now: Now, values: Mapping[str, float]) -> None:
        if "kl" in values and "completions/mean_length" in values:
            now.trainer.beta = self.update(values["kl"] * values["completions/mean_length"])

    def update(self, nats: float) -> float:
        error = nats / self.config.target - 1
        self.beta *= 1 + self.config.gain * max(-0.2, min(0.2, error))
        return self.beta

    def measured(self) -> dict[str, float]:
        """For the metrics."""
        return {"kl_beta": self.beta}

    def state(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.beta = state.get("beta", self.beta)
