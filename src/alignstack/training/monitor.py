"""What watches a run while it trains: progress, metrics, alarms, evaluation, constraints.

A monitor is plain Python: it sees step numbers and what the trainer logs, and may stop the run. Only
`alignstack.training.trainer` knows how the trainer calls back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignstack.core.errors import AlignstackError


class TrainingStopped(AlignstackError):
    """A monitor stopped the run for a reason that makes its weights unfit for use. Nothing was written in place of the
    checkpoint; the metrics until then are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a run ends before its last step."""

    reason: str
    failed: bool
    """True: the weights must not be used (an alarm). False: enough was learnt (early stopping)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Where a run is."""

    step: int
    """Optimiser steps done."""
    steps: int
    """Of the whole run."""
    epoch: float
    model: Any = None
    """The live model (torch). Monitors that use it leave its mode and torch's random state as they were."""
    tokenizer: Any = None
    trainer: Any = None
    """The trainer itself, for the few monitors that steer it (`reward_weights`)."""


class Monitor:
    """Does nothing; monitors override what they need. A returned Stop ends the run after the step."""

    name = "monitor"
    """Unique in a run; the key of its state in midway checkpoints."""

    def begin(self, now: Now) -> None:
        """Before the first step, or the first one after resuming."""

    def step(self, now: Now) -> Stop | None:
        """After every optimiser step."""

    def log(self, now: Now, values: Mapping[str, float]) -> Stop | None:
        """When the trainer logs: means since the last log by its names (`loss`, `kl`, `rewards/chosen` …)."""

    def end(self, now: Now) -> None:
        """After the last step, also of a stopped run."""

    def state(self) -> dict[str, Any]:
        """What has to survive a kill, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state that was saved with the midway checkpoint from which the run goes on."""
