"""AI feedback, one file for each source: `constitution` (any model that reads the principles), `guard` (a classifier
and the policy's rule).

This module turns a recipe's block into one of them.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignstack.core.errors import ConfigError
from alignstack.policy import Policy
from alignstack.policy.strict import problems
from alignstack.training.feedback.case import Case, Compared, Feedback, Revised, cases
from alignstack.training.feedback.constitution import Constitution
from alignstack.training.feedback.guard import Again, Guard

__all__ = ["Again", "Case", "Compared", "Constitution", "Feedback", "Guard", "Revised", "build", "cases"]


def build(block: dict[str, Any], *, policy: Policy, file: Path, where: str, again: Again = lambda case: ()) -> Feedback:
    """`{use: guard}`, `{use: constitution, model: …}`, or a model's own block, which stands for the latter with nothing
    else said. `again` gives a guard further answers of the parent. Raises ConfigError."""
    try:
        if block.get("use") == "guard":
            return Guard(Guard.Config.model_validate(block), policy=policy, file=file, where=where, again=again)
        whole = block if block.get("use") == "constitution" else {"use": "constitution", "model": block}
        config = Constitution.Config.model_validate(whole)
    except ValidationError as error:
        kind = Guard.Config if block.get("use") == "guard" else Constitution.Config
        raise ConfigError(problems(error, str(file), kind, where)) from None
    at = f"{where}.model" if whole is block else where
    return Constitution(config, policy=policy, file=file, where=at)
