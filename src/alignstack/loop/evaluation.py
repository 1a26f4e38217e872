"""Safety and capability while a model is being trained: small suites put to the live weights inside a deployment.

Each evaluation is an audit: the stack of the recipe, with the live weights as its model, in every cell, judged by the
stack's judges. Guards off is the weights alone; guards on is the whole stack. What alignment costs shows in what the
weights refuse without need, in the perplexity of plain answers, and in simple tasks.

The best weights so far lie in the work folder; which those are survives a kill with the midway checkpoints.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignstack.attribution import rates, shares
from alignstack.attribution.intervals import wilson
from alignstack.attribution.matrix import from_records
from alignstack.attribution.result import Estimate
from alignstack.core.errors import ConfigError, Problem, Unavailable
from alignstack.core.messages import digest
from alignstack.core.ports import Clock, ModelClient
from alignstack.engine.config import load_stack
from alignstack.engine.stack import Stack
from alignstack.loop.stages import with_model
from alignstack.redteam import suites
from alignstack.redteam.audit import audit
from alignstack.store.clock import SystemClock
from alignstack.store.index import RunIndex
from alignstack.store.runs import Run
from alignstack.training import canary, scores
from alignstack.training.metrics import Metrics
from alignstack.training.monitor import Monitor, Now, Stop
from alignstack.training.stage import Evaluation

OFF, ON = "weights only", "full stack"
"""The two configurations of `attribution.rates` that are reported: guards off and on."""
BATCH = 32
"""Answers written at once; on one core a fifth faster than 16 with the embedded model, and 48 is no faster."""
SNAPSHOTS = "best"
"""Folder of the best weights so far, in the work folder."""
MAIN = ("asr/off", "asr/on", "over_refusal/off", "over_refusal/on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One evaluation. Rates in [0, 1]."""

    step: int
    values: Mapping[str, float]
    n: Mapping[str, int]
    """Items, tasks or chats behind each."""
    intervals: Mapping[str, tuple[float, float]]
    """95%, by Wilson's score; of the rates."""

    def line(self) -> dict[str, Any]:
        """As `metrics.jsonl` has it."""
        intervals = {name: list(pair) for name, pair in self.intervals.items()}
        return {"evaluation": dict(self.values), "n": dict(self.n), "interval": intervals}


class InLoop(Monitor):
    """Evaluates every so many steps and at the end, keeps the best weights, ends the run when nothing gets better."""

    name = "evaluation"

    def __init__(self, recipe: Evaluation, work: Path, metrics: Metrics, clock: Clock | None = None) -> None:
        """Reads all files that it needs: raises ConfigError and DataError before anything is trained."""
        self.recipe, self.work, self.metrics = recipe, work, metrics
        self.clock = clock or SystemClock()
        self.stack = load_stack(recipe.stack)
        self.items = suites.limit(suites.read_all(recipe.suites), recipe.limit)
        self.chats, self.tasks = canary.chats(recipe.canary), canary.tasks(recipe.tasks)
        self._both_sides()
        self.best: dict[str, Any] | None = None
        self.held: dict[str, Any] | None = None
        """The best one at the last midway checkpoint, which a kill may lead back to."""
        self.since = 0
        """Evaluations since the best one."""
        self.last = -1

    def _both_sides(self) -> None:
        missing = {"harmful", "benign"} - {item.label for item in self.items}
        if missing or not self.stack.judges:
            what = (
                f"the suites hold no {' and no '.join(sorted(missing))} items" if missing else "the stack has no judge"
            )
            raise ConfigError([Problem(where="evaluate", what=f"{what}; both rates need them")])

    def begin(self, now: Now) -> None:
        if not now.model.can_generate():
            raise ConfigError(
                [Problem(where="evaluate", what="this method trains no model that answers; leave it out")]
            )
        if now.trainer is not None and (now.trainer.is_fsdp_enabled or now.trainer.is_deepspeed_enabled):
            problem = "sharded weights cannot be asked while they train; audit the checkpoint afterwards"
            raise ConfigError([Problem(where="evaluate", what=problem)])

    def step(self, now: Now) -> Stop | None:
        if now.step % self.recipe.every:
            return None
        self._evaluate(now)
        if not self.recipe.patience or self.since < self.recipe.patience or self.best is None:
            return None
        return Stop(
            reason=f"no better evaluation for {self.since}; the best was at step {self.best['step']}", failed=False
        )

    def end(self, now: Now) -> None:
        """One more evaluation, unless there is one of this very step; then the best weights return, if wanted."""
        if self.last != now.step:
            self._evaluate(now)
        kept = now.step
        if self.recipe.select and self.best is not None and self.best["step"] != now.step:
            kept = self.best["step"]
            canary.bring_back(now.model, self._file(kept))
        self.metrics.keep(kept)

    def state(self) -> dict[str, Any]:
        wanted = {self._file(best["step"]) for best in (self.best, self.held) if best is not None}
        if self.metrics.writes:
            for old in set((self.work / SNAPSHOTS).glob("*.safetensors")) - wanted:
                old.unlink()
        self.held = self.best
        return {"best": self.best, "since": self.since, "last": self.last}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = self.held = state.get("best")
        self.since, self.last = state.get("since", 0), state.get("last", -1)

    def _evaluate(self, now: Now) -> None:
        self.last = now.step
        started = self.clock.tick()
        try:
            with canary.undisturbed(now.model):
                found = canary.agreed(self._measured(now), _processes(now))
        except Unavailable as error:  # a judge or a server that is away ends no training run
            self.metrics.write(now.step, {"evaluation_failed": str(error)})
            return
        self.metrics.write(now.step, found.line() | {"seconds": round(self.clock.tick() - started, 2)})
        self._compare(now, found)

    def _measured(self, now: Now) -> Measured:
        client = _client(now)
        made = rates_of(with_model(self.stack, client), self.items, clock=self.clock)
        values, n = {name: one.value for name, one in made.items()}, {name: one.n for name, one in made.items()}
        if self.chats:
            values["perplexity"], n["perplexity"] = (
                scores.perplexity(now.model, now.tokenizer, self.chats),
                len(self.chats),
            )
        if self.tasks:
            made["tasks"] = wilson(canary.solved(now.model, now.tokenizer, self.tasks), len(self.tasks))
            values["tasks"], n["tasks"] = made["tasks"].value, len(self.tasks)
        intervals = {name: (one.low, one.high) for name, one in made.items()}
        return Measured(step=now.step, values=values, n=n, intervals=intervals)

    def _compare(self, now: Now, found: Measured) -> None:
        rank = ranked(found.values, self.recipe.max_over_refusal)
        if self.best is not None and tuple(self.best["rank"]) <= rank:
            self.since += 1
            return
        self.best, self.since = {"step": now.step, "rank": list(rank)}, 0
        if self.recipe.select and self.metrics.writes:
            canary.snapshot(now.model, self._file(now.step))

    def _file(self, step: int) -> Path:
        return self.work / SNAPSHOTS / f"step-{step}.safetensors"


def ranked(values: Mapping[str, float], bound: float) -> tuple[float, ...]:
    """The smaller, the better: under the bound on over-refusal by ASR, above it by the sum of both; guards on, and
    where the guards leave no difference by the same with guards off."""
    on, off = ((values[f"asr/{guards}"], values[f"over_refusal/{guards}"]) for guards in ("on", "off"))
    if on[1] <= bound:
        return (0.0, on[0], off[0], on[1], off[1])
    return (1.0, sum(on), sum(off), on[1], off[1])


def rates_of(stack: Stack, items: Sequence[suites.Item], *, clock: Clock) -> dict[str, Estimate]:
    """ASR and over-refusal, guards off and on, of the items that were answered. Raises Unavailable."""
    with tempfile.TemporaryDirectory() as folder:
        index = RunIndex(Path(folder) / "index.db")
        asking = audit(stack, items, out=Path(folder) / "run", clock=clock, index=index, concurrency=2 * BATCH)
        run = asyncio.run(asking)
        index.close()
        return pair(run)


def pair(run: Run) -> dict[str, Estimate]:
    """`asr/off`, `asr/on`, `over_refusal/off`, `over_refusal/on` of a run whose weights have no parent."""
    matrix = from_records(run.records(), run.manifest)
    safe = shares.safety(matrix, matrix.harmful & matrix.usable)
    cost = shares.cost(matrix, ~matrix.harmful & matrix.usable)
    named = {one.name: one for one in rates.configurations(safe, cost)}
    asr = {f"asr/{guards}": named[name].asr for guards, name in (("off", OFF), ("on", ON))}
    return asr | {f"over_refusal/{guards}": named[name].over_refusal for guards, name in (("off", OFF), ("on", ON))}


def _processes(now: Now) -> int:
    return now.trainer.args.world_size if now.trainer is not None else 1


def _client(now: Now) -> ModelClient:
    """The live weights behind the port that every model has."""
    from alignstack.models.transformers import Transformers

    version = digest("live", now.step, id(now.model))[:16]
    return Transformers.of(now.model, now.tokenizer, name="live", version=version, batch=BATCH)
