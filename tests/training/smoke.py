"""The recipes of the repository in small: twenty steps of each, offline, in a process of its own.

Everything is real (recipe, data files, parents, trainer); only amounts are cut. Runs are in float32 with one thread, so
that one kind of machine gives the same bits again. The processes are forked from one that has imported the libraries,
which would otherwise take longer than the training.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
TRAJECTORIES = Path(__file__).with_name("trajectories")
STEPS, SAVED, KILLED = 20, 10, 12
"""Of a run; between midway checkpoints; the step after which a run is killed."""
CAPS = {
    "limit": 16, "max_tokens": 48, "batch": 4, "max_length": 128, "members": 2, "rounds": 1, "warmup": 2, "answers": 2,
    "generations": 4, "accumulate": 1, "copies": 1, "count": 2, "every": 10, "prompts": 16,
}  # fmt: skip
"""Largest values in a small recipe, wherever the key stands."""
PRELOADED = [
    "alignstack.training.stage", "transformers", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer",
    "trl.trainer.kto_trainer", "trl.trainer.reward_trainer", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer",
]  # fmt: skip


def recipes() -> dict[str, str]:
    """Name of the file → method, of all recipes that train language models."""
    heads = {path.stem: path.read_text(encoding="utf-8").split("\n")[0] for path in sorted(RECIPES.glob("*.yaml"))}
    found = {name: re.match(r"# alignstack train ([\w-]+) --config", head) for name, head in heads.items()}
    return {name: match[1] for name, match in found.items() if match and match[1] != "classifier"}


def parents(name: str) -> list[str]:
    """Recipes whose checkpoints this one starts from or uses."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    used = re.findall(r"^[^#\n]*\.\./runs/([\w.-]+)", text, re.M)
    return [other for other in dict.fromkeys(used) if other != name and other in recipes()]


def small(tree: Any, key: str = "") -> Any:
    """The recipe with every amount cut."""
    if isinstance(tree, dict):
        whole = {"answers"} if isinstance(tree.get("answers"), dict) else set()  # which must come to their end
        made = {name: value if name in whole else small(value, name) for name, value in tree.items()}
        return made | ({"limit": min(made.get("limit", 10**9), CAPS["limit"])} if "files" in made else {})
    if isinstance(tree, list):
        return [small(value) for value in tree]
    return min(tree, CAPS[key]) if key in CAPS and type(tree) is int else tree


def write(name: str, folder: Path, out: str) -> Path:
    """The small recipe, where its relative paths lead to the repository's data and to small parents."""
    tree = small(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))
    tree = _bare(tree)
    tree |= {"out": f"../runs/{out}", "save_every": SAVED, "log_every": 1}
    tree["optimiser"] = {**tree.get("optimiser", {}), "steps": STEPS, "precision": "fp32", "batch": 4, "compile": False}
    tree.pop("evaluate", None)  # tests/loop/test_train.py
    here = folder / "recipes"
    here.mkdir(parents=True, exist_ok=True)
    if not (here / "data").exists():
        (here / "data").symlink_to(RECIPES / "data")
    (here / f"{out}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return here / f"{out}.yaml"


def _bare(tree: dict[str, Any]) -> dict[str, Any]:
    """Bare paths of data as sources with a limit."""
    for key in ("data", "prompts"):
        if isinstance(tree.get(key), list):
            cut = {"limit": CAPS["limit"]}
            tree[key] = [{"files": [source], **cut} if isinstance(source, str) else source for source in tree[key]]
    return tree


@dataclass
class Smoke:
    """Small runs in one folder, each made once."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def made(self, name: str) -> Path:
        """The finished checkpoint of a small recipe; first come its parents'."""
        if name not in self._made:
            for parent in parents(name):
                self.made(parent)
            assert self.run(name, name) == 0, self.said(name)
            self._made[name] = self.folder / "runs" / name
        return self._made[name]

    def run(self, name: str, out: str, *, resume: bool = False, kill: int | None = None) -> int | None:
        """Exit code of the process; negative: the signal that ended it."""
        recipe = write(name, self.folder, out)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_job, args=(recipes()[name], recipe, self.folder, resume, kill))
        process.start()
        process.join()
        return process.exitcode

    def said(self, out: str) -> str:
        """The end of what the process printed."""
        return (self.folder / f"{out}.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    @property
    def calls(self) -> list[str]:
        """Attempts to reach a network, of all runs."""
        file = self.folder / "network.log"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _job(method: str, recipe: Path, folder: Path, resume: bool, kill: int | None) -> None:
    """In the child: train, with an eye on the network."""
    os.environ["ALIGNSTACK_HOME"] = str(folder / "home")
    _watch(folder / "network.log")
    with (folder / f"{recipe.stem}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from alignstack.training.metrics import Metrics
    from alignstack.training.monitor import Monitor, Now
    from alignstack.training.stage import Tools

    class Killer(Monitor):
        name = "killer"

        def step(self, now: Now) -> None:
            if now.step == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    tools = Tools(resume=resume, monitors=lambda _, work: (Metrics(work), Killer()))
    import_module(f"alignstack.training.{method}").run(recipe, tools)


def _watch(file: Path) -> None:
    """Every connection and every look-up of a name is written down, whoever swallows its failure."""

    def hook(event: str, arguments: Sequence[Any]) -> None:
        local = event == "socket.connect" and not isinstance(arguments[1], tuple)
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and not local:
            with file.open("a") as log:
                log.write(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}\n")
            raise OSError("no network in this test")

    sys.addaudithook(hook)


def losses(checkpoint: Path) -> dict[str, list[float]]:
    """Loss by step, of each run of the stage."""
    found: dict[str, list[float]] = {}
    for line in (checkpoint / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "loss" in entry.get("values", {}):
            found.setdefault(entry.get("part", "."), []).append(entry["values"]["loss"])
    return found


def reference(name: str) -> dict[str, Any]:
    return dict(json.loads((TRAJECTORIES / f"{name}.json").read_text(encoding="utf-8")))


def machine() -> dict[str, str]:
    """What the numbers of a trajectory hang on."""
    import torch
    import transformers
    import trl

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        cpu = names[0] if names else cpu
    capability = torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    return {"cpu": cpu, "kernels": capability, **versions}
