"""`alignstack train METHOD`."""

import contextlib
import sys
from importlib import import_module
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say

METHODS = {
    "pretrain": ("A small Llama from scratch, on plain text and chats.", "recipes/embedded/base.yaml"),
    "sft": ("Supervised fine-tuning on conversations and curated refusals.", "recipes/sft.yaml"),
    "reward": ("A Bradley-Terry reward model, or an ensemble of them.", "recipes/reward.yaml"),
    "dpo": ("Direct preference optimisation: dpo, ipo, robust, orpo, simpo, … by `loss`.", "recipes/dpo.yaml"),
    "kto": ("Preferences from single answers that are good or bad.", "recipes/kto.yaml"),
    "rlhf": ("GRPO or RLOO against reward models, with a watch for reward hacking.", "recipes/rlhf.yaml"),
    "rlaif": ("Preferences by a judge that reads the constitution, then a reward model or DPO.", "recipes/rlaif.yaml"),
    "constitutional": ("Critique and revision by the principles, then SFT.", "recipes/constitutional.yaml"),
}
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")

recipe = options.option("--config", type=options.FILE, required=True, metavar="RECIPE", help="The recipe (YAML).")
resume = options.option("--resume", is_flag=True, help="Go on with a run that was cut off.")


@click.group()
def train() -> None:
    """Train a model or a classifier from a recipe.

    Needs the `train` extra: pip install 'alignstack[train]'.

    \b
    Example:
      alignstack train sft --config recipes/sft.yaml
    """


def _method(name: str, about: str, example: str) -> None:
    @train.command(name, help=f"{about}\n\n\b\nExample:\n  alignstack train {name} --config {example}")
    @recipe
    @resume
    @options.as_json
    def command(config: Path, resume: bool, as_json: bool) -> None:
        needs_extra(*LIBRARIES)
        from alignstack.loop.train import tools

        with contextlib.redirect_stdout(sys.stderr):
            made = import_module(f"alignstack.training.{name}").run(config, tools(resume=resume))
        report(name, made, as_json)


for _name, (_about, _example) in METHODS.items():
    _method(_name, _about, _example)


@train.command()
@recipe
@options.as_json
def classifier(config: Path, as_json: bool) -> None:
    """The embedded input and output classifier, calibrated.

    \b
    Example:
      alignstack train classifier --config recipes/classifier.yaml
    """
    needs_extra("scipy", "sklearn")
    from alignstack.training.classifier import run

    with contextlib.redirect_stdout(sys.stderr):
        made = run(config)
    report("classifier", made, as_json)


def needs_extra(*modules: str) -> None:
    """Raises a usage error unless the training libraries are installed."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise click.ClickException(f"{', '.join(missing)} not installed; try: pip install 'alignstack[train]'")


def report(method: str, made: Path, as_json: bool) -> None:
    """Say where the result lies. What the libraries print goes to stderr."""
    if as_json:
        emit({"method": method, "out": str(made)})
    else:
        say(f"{method}: wrote {made}")
