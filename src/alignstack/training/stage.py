"""What every training method does before and after it trains: find the parent, keep the rows, save, describe.

A method reads: load the recipe, `begin` a stage, build the rows, train, `finish`. A finished checkpoint folder holds
the weights and tokenizer in Hugging Face form, `lineage.json`, the recipe and the rows it was trained on, the metrics,
and a model card. It appears under its final name only when it is whole; until then everything lies in `NAME.work`,
from which a killed run goes on.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignstack import policy as policies
from alignstack.core.errors import DataError
from alignstack.policy import Policy
from alignstack.training import lineage, metrics, trainer
from alignstack.training.monitor import Monitor, TrainingStopped
from alignstack.training.recipe import RecipePath, Strict
from alignstack.training.unpack import shipped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROWS, RECIPE, METRICS = "rows.jsonl.gz", "recipe.yaml", metrics.FILE
EMBEDDED = "embedded:"


class Evaluation(Strict):
    """Safety and capability while training goes on, measured inside a deployment."""

    suites: list[RecipePath] = Field(min_length=1)
    """Suite files with harmful and benign items; of each side at most `limit` are asked."""
    stack: RecipePath | None = None
    """The stack file whose layers stand round the live weights; the built-in stack otherwise."""
    every: int = Field(default=50, ge=1)
    """Steps between two evaluations; one more comes at the end."""
    limit: int = Field(default=32, ge=1)
    canary: list[RecipePath] = Field(default_factory=list)
    """Chats (`messages`) whose answers the model should still find likely: perplexity is reported, since alignment has
    a tax."""
    tasks: list[RecipePath] = Field(default_factory=list)
    """Questions with one right answer (`prompt`, `answer`): how many greedy answers hold it word for word."""
    max_over_refusal: float = Field(default=0.1, ge=0, le=1)
    """Of the evaluations under this bound (guards on) the one with the lowest ASR is kept; of those above, the one
    with the lowest sum of both."""
    patience: int = Field(default=0, ge=0)
    """Evaluations without a better one before the run ends; 0: it never ends early."""
    select: bool = True
    """Keep the best evaluated weights, not the last ones."""


class Recipe(Strict):
    """What all methods that start from a checkpoint share."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the stage."""
    parent: str
    """Checkpoint folder to start from, relative to the recipe; `embedded:helpful` and `embedded:aligned` ship."""
    out: RecipePath
    policy: RecipePath | None = None
    """The policy file whose refusals and principles are taught; the built-in one otherwise."""
    seed: int = 0
    max_length: int = Field(default=512, ge=16)
    """Tokens; longer conversations are cut at the end."""
    lora: trainer.Lora | None = None
    save_every: int = Field(default=0, ge=0)
    """Steps between midway checkpoints, from which `--resume` goes on; 0: none."""
    log_every: int = Field(default=10, ge=1)
    """Steps."""
    evaluate: Evaluation | None = None
    licence: str | None = None
    """Of the weights, by its name on the Hugging Face hub (`apache-2.0`), for the model card."""
    track: list[trainer.Tracker] = Field(default_factory=list)
    """Where metrics go besides `metrics.jsonl`; each needs its package. `wandb` and `mlflow` may talk to a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a run is given from above: how to go on, who watches."""

    resume: bool = False
    monitors: Callable[[Recipe, Path], Sequence[Monitor]] = lambda recipe, work: ()
    """Makes the monitors of one run: recipe, folder for their files."""


ALONE = Tools()


@dataclass(slots=True, kw_only=True)
class Stage:
    """One run of one recipe."""

    recipe: Recipe
    file: Path
    """The recipe."""
    method: str
    parent: Path
    policy: Policy
    work: Path
    tools: Tools
    started: float
    data: list[Path] = field(default_factory=list)
    """Files that were read."""
    uses: dict[str, str] = field(default_factory=dict)
    """Further checkpoints: name → weights."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Copied into the checkpoint under these names (members of an ensemble)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """For the model card: name → plain data (data manifest, calibration …)."""

    def run(self, monitors: Iterable[Monitor] = ()) -> trainer.Run:
        """How the trainer is to run; the method's own monitors come before those from above."""
        recipe: Any = self.recipe
        return trainer.Run(
            work=self.work,
            seed=recipe.seed,
            optimiser=recipe.optimiser,
            max_length=recipe.max_length,
            lora=recipe.lora,
            save_every=recipe.save_every,
            log_every=recipe.log_every,
            resume=self.tools.resume,
            monitors=(*monitors, *self.tools.monitors(recipe, self.work)),
            track=tuple(recipe.track),
        )

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """A fresh copy of the parent, the seed set: what is new in the model is repeatable."""
        trainer.seed_everything(self.recipe.seed)
        return trainer.load(self.parent)

    def keep(self, rows: list[dict[str, Any]], data: Iterable[Path]) -> list[dict[str, Any]]:
        """Remember what is trained on. A resumed run gets the rows that it started with: answers made by a model need
        not be made again."""
        self.data = [*self.data, *data]
        kept = self.kept()
        if kept is None:
            write_rows(self.work / ROWS, rows)
        return rows if kept is None else kept

    def kept(self) -> list[dict[str, Any]] | None:
        """The rows of the run that is resumed; None when they have to be made."""
        file = self.work / ROWS
        return read_rows(file) if self.tools.resume and file.is_file() else None

    def finish(self, trained: trainer.Trained, tokenizer: PreTrainedTokenizerFast) -> Path:
        """Save, describe and move into place. Raises TrainingStopped when a monitor condemned the weights."""
        if trained.stop is not None and trained.stop.failed:
            raise TrainingStopped(
                f"{self.recipe.name!r} was stopped at step {trained.steps}: {trained.stop.reason}; no checkpoint was "
                f"written, the metrics are in {str(self.work / METRICS)!r}"
            )
        if trained.main:
            self._write(trained, tokenizer)
        return self.recipe.out

    def _write(self, trained: trainer.Trained, tokenizer: PreTrainedTokenizerFast) -> None:
        whole = self.work / "finished"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        trainer.save(trained.model, tokenizer, whole)
        shutil.copyfile(self.file, whole / RECIPE)
        for kept in [*self.work.glob(ROWS), *sorted(self.work.glob("*.jsonl"))]:
            shutil.copyfile(kept, whole / kept.name)
        for name, folder in self.folders.items():
            shutil.copytree(folder, whole / name)
        if (self.work / metrics.TRACK).is_dir():
            shutil.copytree(self.work / metrics.TRACK, whole / metrics.TRACK)
        self._describe(whole, trained)
        shutil.rmtree(self.recipe.out, ignore_errors=True)
        whole.rename(self.recipe.out)
        shutil.rmtree(self.work, ignore_errors=True)

    def _describe(self, whole: Path, trained: trainer.Trained) -> None:
        from alignstack.training import card

        kept = evaluation(whole / METRICS)
        record = lineage.write(
            whole, stage=self.recipe.name, method=self.method, parent=self.parent, recipe=self.file, data=self.data,
            seed=self.recipe.seed, tokens=trained.tokens, seconds=time.monotonic() - self.started,
            place=self.recipe.out, policy=self.policy.fingerprint,
            rows=lineage.sha256(whole / ROWS) if (whole / ROWS).is_file() else None, uses=self.uses,
            steps=trained.steps, stopped=trained.stop.reason if trained.stop else None, peak_mb=peak_mb(),
            measured=kept.get("evaluation", {}),
        )  # fmt: skip
        notes = self.notes | ({"evaluation": kept} if kept else {}) | {"lineage": before(self.parent)}
        (whole / "README.md").write_text(card.model_card(record, self.recipe, notes), encoding="utf-8")


def begin(recipe: Recipe, file: Path, method: str, tools: Tools) -> Stage:
    """Check the parent and open the work folder. Raises DataError: no checkpoint there, or a killed run in the way."""
    work = recipe.out.with_name(recipe.out.name + ".work")
    with trainer.main_first() as main:
        parent = find(recipe.parent, file)
        lineage.read(parent)
        if main and not tools.resume:
            _clear(work)
        work.mkdir(parents=True, exist_ok=True)
    return Stage(
        recipe=recipe, file=file, method=method, parent=parent, policy=policies.load(recipe.policy), work=work,
        tools=tools, started=time.monotonic(),
    )  # fmt: skip


def _clear(work: Path) -> None:
    if trainer.latest(work) is not None:
        raise DataError(f"{str(work)!r} holds a run that was cut off; `--resume` goes on with it, or delete it")
    shutil.rmtree(work, ignore_errors=True)


def find(checkpoint: str, file: Path) -> Path:
    """The folder that a recipe names: `embedded:NAME`, or a path that starts at the recipe's folder."""
    if checkpoint.startswith(EMBEDDED):
        return shipped(checkpoint.removeprefix(EMBEDDED))
    return (file.resolve().parent / Path(checkpoint).expanduser()).resolve()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSONL, packed; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a checkpoint, in the order in which they were given to the trainer. Raises DataError."""
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    except FileNotFoundError:
        raise DataError(f"{str(path.parent)!r} keeps no rows ({path.name})") from None
    except (OSError, ValueError, EOFError):
        raise DataError(f"{str(path)!r} is damaged") from None


def evaluation(file: Path) -> dict[str, Any]:
    """The line of `metrics.jsonl` with the evaluation of the weights that were kept; empty when there is none."""
    return next((line for line in reversed(metrics.read(file)) if line.get("kept")), {})


def before(parent: Path) -> list[dict[str, str]]:
    """The stages down to the parent, oldest first, for the card; only the parent when it has been moved about."""
    try:
        stages = lineage.chain(parent)
    except DataError:
        stages = [lineage.read(parent)]
    return [{"stage": one.stage, "method": one.method, "weights": one.weights} for one in stages]


def peak_mb() -> float:
    """Largest resident memory of this process so far in MB, or what torch held at most on the GPU."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
