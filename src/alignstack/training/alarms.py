"""Monitors that notice when training has gone wrong: a stale reference, chosen answers unlearnt, numbers that are none.

A warning goes to the log and, as a line of its own (`alarm`, `message`), to `metrics.jsonl`, which is kept with the
checkpoint. A stop is the run's error message.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from alignstack.training import metrics
from alignstack.training.monitor import Monitor, Now, Stop

log = logging.getLogger(__name__)

TOLERANCE = 2e-3
"""Of the first step's loss (relative) and rewards (absolute). Two forward passes of the same weights agree exactly on a
CPU, in bf16 too; the rest is room for kernels that add up in another order. A reference that is stale by one usual
step shows more."""


class StaleReference(Monitor):
    """On the first step policy and reference are the same weights: both rewards must be 0 and the loss what it is worth
    there (DPO: ln 2). Otherwise the run is stopped: everything it learnt would be measured from the wrong place. A
    resumed run is past that step and is not asked."""

    name = "stale_reference"

    def __init__(self, expected: float | None) -> None:
        """`expected`: the loss; None where it is not known, then the rewards alone are looked at."""
        self._expected = expected

    def log(self, now: Now, values: Mapping[str, float]) -> Stop | None:
        if now.step != 1 or "loss" not in values:
            return None
        rewards = {name: values[name] for name in ("rewards/chosen", "rewards/rejected") if name in values}
        wrong = [f"{name} = {value:.4g} in place of 0" for name, value in rewards.items() if not near(value, 0.0)]
        if self._expected is not None and not near(values["loss"], self._expected):
            wrong.insert(0, f"loss = {values['loss']:.4g} in place of {self._expected:.4g}")
        if not wrong:
            return None
        reason = f"the reference is not the model that training starts from: on the first step {', '.join(wrong)}"
        return Stop(reason=f"{reason}. Save the stage before, and start from its folder", failed=True)


def near(value: float, expected: float) -> bool:
    """Within the tolerance; no number is near nothing."""
    return abs(value - expected) <= TOLERANCE * max(1.0, abs(expected))


class FallingChosen(Monitor):
    """Preference losses look at differences, so they are content when both answers become less likely, the rejected one
    faster; what becomes likelier is then something else, often nothing good (Pal et al. 2024; Razin et al. 2024). Warns
    once, or stops the run."""

    name = "falling_chosen"

    def __init__(
        self,
        work: Path,
        *,
        key: str = "rewards/chosen",
        nats: float = 1.0,
        unit: str = "an answer",
        bound: float,
        window: int = 3,
        stop: bool = False,
    ) -> None:
        """`key`: the trainer's metric, which times `nats` is a log-probability (or its difference to the reference) of
        `unit`. The mean of the newest `window` logs is compared with that of the first `window`; falling by more than
        `bound` nats while the margin has risen is an alarm."""
        self._work, self._key, self._nats, self._unit = work, key, nats, unit
        self._bound, self._window, self._stop = bound, window, stop
        self._chosen: list[float] = []
        self._margins: list[float] = []
        self._told = False

    def log(self, now: Now, values: Mapping[str, float]) -> Stop | None:
        if self._key not in values or "rewards/margins" not in values:
            return None
        self._chosen.append(values[self._key] * self._nats)
        self._margins.append(values["rewards/margins"])
        before, after = ends(self._chosen, self._window)
        low, high = ends(self._margins, self._window)
        if self._told or len(self._chosen) <= self._window or before - after <= self._bound or high <= low:
            return None
        self._told = True
        message = self._message(before - after, low, high)
        tell(self._work, self.name, now, message)
        return Stop(reason=message, failed=True) if self._stop else None

    def _message(self, fall: float, low: float, high: float) -> str:
        return (
            f"chosen answers became less likely by {fall:.1f} nats {self._unit} (bound {self._bound:g}) while the "
            f"margin rose from {low:.2f} to {high:.2f}: both answers are being unlearnt. What helps: a loss that holds "
            "the chosen ones (`loss: [dpo, sft]`), fewer steps or a lower learning rate, a higher beta, pairs whose "
            "chosen answers the parent finds likely"
        )

    def state(self) -> dict[str, Any]:
        return {"chosen": self._chosen, "margins": self._margins, "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._chosen, self._margins = list(state.get("chosen", [])), list(state.get("margins", []))
        self._told = bool(state.get("told", False))


def ends(series: Sequence[float], window: int) -> tuple[float, float]:
    """Means of the first and of the last `window` values."""
    return fmean(series[:window]), fmean(series[-window:])


class NotANumber(Monitor):
    """Stops when the loss or the gradient is infinite or no number: the weights are gone, and further steps only cost
    time. Looked for whenever the trainer logs."""

    name = "not_a_number"

    def log(self, now: Now, values: Mapping[str, float]) -> Stop | None:
        broken = [name for name in ("loss", "grad_norm") if not math.isfinite(values.get(name, 0.0))]
        if not broken:
            return None
        reason = (
            f"{' and '.join(broken)} of step {now.step} is no number; try a lower learning rate, a longer warm-up, "
        )
        return Stop(reason=reason + "or `precision: fp32`", failed=True)


def tell(work: Path, alarm: str, now: Now, message: str) -> None:
    """Warn in the log and in the metrics; a step that is done again after a kill does not warn there twice."""
    if now.trainer is not None and not now.trainer.is_world_process_zero():
        return
    log.warning("step %d: %s", now.step, message)
    line = {"step": now.step, "alarm": alarm, "message": message}
    said = metrics.read(work / metrics.FILE)
    if not any(line.items() <= earlier.items() for earlier in said):
        metrics.rewrite(work / metrics.FILE, [*said, line | {"time": round(time.time(), 3)}])
