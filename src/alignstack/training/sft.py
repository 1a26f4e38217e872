"""`alignstack train sft`: supervised fine-tuning on conversations with TRL, loss on the assistant's tokens.

Curated refusals are one kind of source (`answer: refuse`): the policy's own words for the row's hazard, brief, without
a lecture, with a safe way on. Benign look-alikes and plain instructions stand beside them in the shares that the recipe
states; where those have no answer, the parent gives its own (`answer: parent`), so that it stays what it was.
"""

from pathlib import Path

from pydantic import Field

from alignstack.training import dataset, trainer
from alignstack.training.recipe import RecipePath, load
from alignstack.training.stage import ALONE, Recipe, Tools, begin


class SFT(Recipe):
    """The recipe."""

    data: list[dataset.Source] = Field(min_length=1)
    """Files of conversations, or of prompts with `answer: refuse` or `answer: parent`."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: rows that are near-duplicates of their prompts are dropped."""
    blend: float = Field(default=1.0, gt=0, le=1)
    """Share of the change that is kept: weights = parent + blend x (tuned - parent). Below 1 the parent's habits come
    back, here: answering (WiSE-FT, Wortsman et al. 2022)."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=5e-4)


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, SFT)
    stage = begin(config, recipe, "sft", tools)
    rows = dataset.for_stage(stage, config.data, "sft", config.held_out)
    model, tokenizer = stage.load()
    trained = trainer.sft(model, tokenizer, rows, stage.run())
    if config.blend < 1:
        trainer.blend(trained.model, stage.parent, config.blend)
    return stage.finish(trained, tokenizer)
