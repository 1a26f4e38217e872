"""Training with everybody watching: progress, metrics, and evaluation inside a deployment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignstack.training import metrics
from alignstack.training.metrics import Metrics
from alignstack.training.monitor import Monitor
from alignstack.training.progress import Progress, hush
from alignstack.training.stage import Tools


def tools(*, resume: bool = False) -> Tools:
    """What `alignstack train` gives to a run; from here on only our own progress is shown."""
    hush()
    return Tools(resume=resume, monitors=monitors)


def monitors(recipe: Any, work: Path) -> Sequence[Monitor]:
    """Of one run; `recipe` is any method's, `work` the folder for their files. Raises ConfigError for a tracker that
    is not installed and for an evaluation that cannot be made, DataError for its suites."""
    metrics.ready(getattr(recipe, "track", ()), work, recipe.name)
    written = Metrics(work)
    watching: list[Monitor] = [Progress(recipe.name), written]
    if getattr(recipe, "evaluate", None) is not None:
        from alignstack.loop.evaluation import InLoop

        watching.append(InLoop(recipe.evaluate, work, written))
    return watching
