"""`alignstack train sft`: supervised fine-tuning on conversations with TRL, loss on the assistant's tokens."""

import time
from pathlib import Path
from typing import Any

from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.training import corpus, lineage, trainer
from alignstack.training.recipe import RecipePath, Strict, load


class SFT(Strict):
    """The recipe."""

    name: str
    parent: RecipePath
    """Checkpoint folder to start from."""
    out: RecipePath
    data: list[RecipePath] = Field(min_length=1)
    """JSONL files of `{"messages": [{"role", "content"}, …]}`; the last turn is the assistant's."""
    seed: int = 0
    max_length: int = Field(default=512, ge=16)
    """Tokens; longer conversations are cut at the end."""
    blend: float = Field(default=1.0, gt=0, le=1)
    """Share of the change that is kept: weights = parent + blend x (tuned - parent). Below 1 the parent's habits come
    back, here: answering (WiSE-FT, Wortsman et al. 2022)."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=5e-4)


def run(recipe: Path) -> Path:
    """Train and save; returns the checkpoint folder."""
    config, started = load(recipe, SFT), time.monotonic()
    lineage.read(config.parent)
    rows = [row for path in config.data for row in conversations(path)]
    trainer.seed_everything(config.seed)
    model, tokenizer = trainer.load(config.parent)
    tokens = trainer.sft(model, tokenizer, rows, config.optimiser, config.seed, config.max_length)
    if config.blend < 1:
        trainer.blend(model, config.parent, config.blend)
    trainer.save(model, tokenizer, config.out)
    lineage.write(
        config.out, stage=config.name, method="sft", parent=config.parent, recipe=recipe, data=config.data,
        seed=config.seed, tokens=tokens, seconds=time.monotonic() - started,
    )  # fmt: skip
    return config.out


def conversations(path: Path) -> list[dict[str, Any]]:
    """Rows with `messages` alone, each ending with an answer. Raises DataError that names the first bad row."""
    found = []
    for number, row in enumerate(corpus.rows(path), 1):
        messages = row.get("messages") or []
        if not messages or messages[-1].get("role") != "assistant":
            raise DataError(f"{path.name} line {number}: needs `messages` that end with an assistant turn")
        found.append({"messages": [{"role": m["role"], "content": m["content"]} for m in messages]})
    if not found:
        raise DataError(f"{path.name} has no rows")
    return found
