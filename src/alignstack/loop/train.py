"""Training with everybody watching: progress, metrics, and evaluation inside a deployment."""

from alignstack.training.stage import Tools


def tools(*, resume: bool = False) -> Tools:
    """What `alignstack train` gives to a run."""
    return Tools(resume=resume)
