"""Model cards in Hugging Face form: what a checkpoint is made of and what it did inside a deployment."""

from collections.abc import Mapping
from typing import Any

from alignstack.training.lineage import Stage


def model_card(stage: Stage, recipe: Any, notes: Mapping[str, Any]) -> str:
    """README.md of a checkpoint folder."""
    return f"# {stage.stage}\n\nMethod: {stage.method}\n"
