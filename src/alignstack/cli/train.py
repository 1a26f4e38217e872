"""`alignstack train METHOD`."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say

recipe = options.option("--config", type=options.FILE, required=True, metavar="RECIPE", help="The recipe (YAML).")


@click.group()
def train() -> None:
    """Train a model or a classifier from a recipe.

    Needs the `train` extra: pip install 'alignstack[train]'.

    \b
    Example:
      alignstack train sft --config recipes/embedded/aligned.yaml
    """


@train.command()
@recipe
@options.as_json
def pretrain(config: Path, as_json: bool) -> None:
    """A small Llama from scratch, on plain text and chats.

    \b
    Example:
      alignstack train pretrain --config recipes/embedded/base.yaml
    """
    needs_extra("torch", "transformers")
    from alignstack.training.pretrain import run

    report("pretrain", run, config, as_json)


@train.command()
@recipe
@options.as_json
def sft(config: Path, as_json: bool) -> None:
    """Supervised fine-tuning of a checkpoint on chats.

    \b
    Example:
      alignstack train sft --config recipes/embedded/helpful.yaml
    """
    needs_extra("torch", "transformers", "trl")
    from alignstack.training.sft import run

    report("sft", run, config, as_json)


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

    report("classifier", run, config, as_json)


def needs_extra(*modules: str) -> None:
    """Raises a usage error unless the training libraries are installed."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise click.ClickException(f"{', '.join(missing)} not installed; try: pip install 'alignstack[train]'")


def report(method: str, run: Callable[[Path], Path], config: Path, as_json: bool) -> None:
    """Train and say where the result lies. What the libraries print goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        made = run(config)
    if as_json:
        emit({"method": method, "out": str(made)})
    else:
        say(f"{method}: wrote {made}")
