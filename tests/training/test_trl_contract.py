"""What the trainer module takes for granted of TRL, transformers and PEFT: what another version has to pass first.

Run as a program it trains in processes of its own: `offline` records every attempt to reach a network, `kill` is killed
in the middle of each method.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from alignstack.training import lineage, trainer
from alignstack.training.monitor import Monitor, Now, Stop

ROOT = Path(__file__).parents[2]
WORDS = ("the cat", "a dog", "some bread", "old tea", "the house", "see a cat", "find bread", "go home")
ASKED = [[{"role": "user", "content": word}] for word in WORDS]
GOOD = [[{"role": "assistant", "content": f"sure here is {word}"}] for word in WORDS]
BAD = [[{"role": "assistant", "content": "tea with bread" + i * " tea"}] for i in range(len(WORDS))]
CHATS = [{"messages": [*x, *y]} for x, y in zip(ASKED, GOOD, strict=True)]
PAIRS = [{"prompt": x, "chosen": y, "rejected": z} for x, y, z in zip(ASKED, GOOD, BAD, strict=True)]
SINGLE = [
    {"prompt": x, "completion": (y, z)[i % 2], "label": i % 2 == 0}
    for i, (x, y, z) in enumerate(zip(ASKED, GOOD, BAD, strict=True))
]
PROMPTS = [{"prompt": x} for x in ASKED]


def short(completions: Any, **_: Any) -> list[float]:
    return [-float(len(answer[0]["content"])) for answer in completions]


def rl(algorithm: Any) -> Callable[[Path, trainer.Run], trainer.Trained]:
    settings: dict[str, Any] = {"num_generations": 2, "max_completion_length": 8, "beta": 0.1}
    return lambda base, run: trainer.policy_gradient(
        algorithm, *trainer.load(base), PROMPTS, run, rewards={"short": short}, weights=[1.0], **settings
    )


METHODS: dict[str, Callable[[Path, trainer.Run], trainer.Trained]] = {
    "sft": lambda base, run: trainer.sft(*trainer.load(base), CHATS, run),
    "reward": lambda base, run: trainer.reward(*trainer.load_scorer(base), PAIRS, run, center=0.01),
    "dpo": lambda base, run: trainer.dpo(trainer.load(base)[0], *both(base), PAIRS, run, beta=0.1),
    "kto": lambda base, run: trainer.kto(trainer.load(base)[0], *both(base), SINGLE, run, beta=0.1),
    "orpo": lambda base, run: trainer.orpo(*trainer.load(base), PAIRS, run, beta=0.1),
    "cpo": lambda base, run: trainer.cpo(*trainer.load(base), PAIRS, run, loss_type="simpo", cpo_alpha=0.0),
    "grpo": rl("grpo"),
    "rloo": rl("rloo"),
}
RESUMED = ("sft", "reward", "dpo", "kto", "orpo", "grpo")


def both(base: Path) -> tuple[Any, Any]:
    return trainer.load(base)


def how(work: Path, *monitors: Monitor, steps: int = 6, **more: Any) -> trainer.Run:
    optimiser = trainer.Optimiser(batch=4, steps=steps, learning_rate=1e-2, warmup=1)
    return trainer.Run(
        work=work, seed=0, optimiser=optimiser, max_length=48, log_every=1, monitors=monitors, **more
    )  # fmt: skip


class Kill(Monitor):
    """SIGKILL after a step."""

    name = "kill"

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, now: Now) -> Stop | None:
        if now.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


class Count(Monitor):
    """Counts steps, over kills."""

    name = "count"
    steps = 0

    def step(self, now: Now) -> Stop | None:
        self.steps += 1
        return None

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: Any) -> None:
        self.steps = state["steps"]


# ---------------------------------------------------------------- as a program


def offline(base: Path, out: Path) -> None:
    """Two steps of everything, with every way to a network closed and watched."""
    attempts: list[str] = []

    def refuse(name: str) -> Callable[..., Any]:
        def refused(*args: Any, **_: Any) -> Any:
            attempts.append(f"{name} {[arg for arg in args if isinstance(arg, (str, tuple, bytes))]}")
            raise OSError("no network here")

        return refused

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        setattr(socket, name, refuse(name))
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse(name))  # a subclass of the C type, whose methods can be replaced
    for name, method in METHODS.items():
        method(base, how(out / name, steps=2))
    seen = len(attempts)
    for probe in (
        lambda: socket.create_connection(("example.org", 80)),
        lambda: socket.socket().connect(("1.1.1.1", 1)),
    ):
        try:
            probe()
        except OSError:
            continue
    (out / "attempts.json").write_text(json.dumps({"training": attempts[:seen], "probes": attempts[seen:]}))


def kill(base: Path, out: Path) -> None:
    """Every method in a process of its own, killed after the fifth step; midway checkpoints after 2 and 4."""
    import datasets  # noqa: F401
    import trl
    import trl.experimental.orpo

    assert trl.SFTTrainer and trl.GRPOTrainer and trl.DPOTrainer and trl.KTOTrainer and trl.RewardTrainer
    for name in RESUMED:
        child = os.fork()
        if child == 0:
            METHODS[name](base, how(out / name, Count(), Kill(5), save_every=2))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(name, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"ended {status}")


def program(what: str, *args: Path) -> str:
    """Run this file; the network's switches are the trainer module's own, not the caller's."""
    off = {"HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"}
    clean = {name: value for name, value in os.environ.items() if name not in off} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, what, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


# ---------------------------------------------------------------- versions and names


def test_the_minor_version_is_the_one_that_was_checked() -> None:
    from packaging.requirements import Requirement

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    (pinned,) = (r for r in map(Requirement, extra) if r.name == "trl")
    major, minor = map(int, version("trl").split(".")[:2])
    assert pinned.specifier.contains(version("trl"))
    assert not pinned.specifier.contains(f"{major}.{minor + 1}.0") and not pinned.specifier.contains(
        f"{major}.{minor - 1}.9"
    )


def configs() -> dict[str, tuple[Any, Any, set[str]]]:
    """Configuration, trainer, and the settings that the project gives beyond the common ones."""
    import trl
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    rl = {"reward_weights", "beta", "num_generations", "max_completion_length"}
    pairs = {"max_length", "loss_type", "loss_weights", "beta", "label_smoothing", "discopop_tau"}
    weights = {"desirable_weight", "undesirable_weight"}
    seen = {"include_num_input_tokens_seen", "assistant_only_loss", "max_length", "train_sampling_strategy"}
    return {
        "sft": (trl.SFTConfig, trl.SFTTrainer, seen),
        "reward": (trl.RewardConfig, trl.RewardTrainer, {"max_length", "center_rewards_coefficient"}),
        "dpo": (trl.DPOConfig, trl.DPOTrainer, pairs),
        "kto": (trl.KTOConfig, trl.KTOTrainer, {"max_length", "loss_type", "beta"} | weights),
        "orpo": (ORPOConfig, ORPOTrainer, {"max_length", "beta"}),
        "cpo": (CPOConfig, CPOTrainer, {"max_length", "loss_type", "beta", "cpo_alpha", "simpo_gamma"}),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer, rl),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer, rl),
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_and_keyword_exists(method: str, tmp_path: Path) -> None:
    config, kind, more = configs()[method]
    settings = {*trainer.common(how(tmp_path)), *more}
    assert settings <= set(config.__dataclass_fields__)
    given = {"model", "args", "train_dataset", "processing_class", "peft_config"}
    given |= {"ref_model"} if method in ("dpo", "kto") else {"reward_funcs"} if method in ("grpo", "rloo") else set()
    assert given <= set(signature(kind.__init__).parameters)


def test_defaults_that_are_relied_on() -> None:
    """Where the project does not say it, TRL's default has to be what the docs say."""
    import trl

    fields = {name: config.__dataclass_fields__ for name, (config, _, _) in configs().items()}
    assert fields["sft"]["loss_type"].default == "nll"
    assert fields["kto"]["train_sampling_strategy"].default == "sequential"  # the KL term pairs neighbours
    assert fields["kto"]["loss_type"].metadata["choices"] == ["kto", "apo_zero_unpaired"]
    assert fields["dpo"]["truncation_mode"].default == "keep_start"
    assert fields["dpo"]["f_divergence_type"].default == "reverse_kl" and not fields["dpo"]["sync_ref_model"].default
    assert fields["cpo"]["loss_type"].metadata["choices"] == ["sigmoid", "hinge", "ipo", "simpo", "alphapo"]
    assert not hasattr(trl, "PPOTrainer")  # why `rlhf` is GRPO and RLOO


def test_the_losses_are_those_that_were_checked() -> None:
    """`tests/training/test_losses.py` has a value for each; a new name wants one there and in `losses.at_zero`."""
    assert set(trainer.losses()) == {
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    }  # fmt: skip


# ---------------------------------------------------------------- no network


def test_no_method_reaches_for_a_network(base: Path, tmp_path: Path) -> None:
    program("offline", base, tmp_path)
    attempts = json.loads((tmp_path / "attempts.json").read_text())
    assert attempts["training"] == []
    assert len(attempts["probes"]) == 2  # it would have been seen


# ---------------------------------------------------------------- killed and resumed


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("killed")
    assert program("kill", base, out).split("\n")[:-1] == [f"{name} {int(signal.SIGKILL)}" for name in RESUMED]
    return out


def differences(a: Any, b: Any) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


@pytest.mark.parametrize("method", RESUMED)
def test_a_killed_run_goes_on_bit_for_bit(method: str, base: Path, killed: Path, tmp_path: Path) -> None:
    """SIGKILL after step 5, midway checkpoints after 2 and 4, of which the last is made half-written: the run goes on
    from step 2, and ends with the same weights and the same history as one that was never killed."""
    work = tmp_path / "work"
    shutil.copytree(killed / method, work)
    (work / "checkpoint-4" / trainer.COMPLETE).unlink()
    assert trainer.latest(work) == work / "checkpoint-2"
    count = Count()
    whole = METHODS[method](base, how(tmp_path / "whole", save_every=2))
    resumed = METHODS[method](base, how(work, count, save_every=2, resume=True))
    assert differences(whole.model, resumed.model) == 0.0
    assert count.steps == 6  # two before the checkpoint, four after
    timed = ("runtime", "second", "flos")
    ours, theirs = (
        [
            {key: value for key, value in entry.items() if not any(word in key for word in timed)}
            for entry in run.history
        ]
        for run in (whole, resumed)
    )
    assert [entry.get("loss") for entry in ours] == [entry.get("loss") for entry in theirs]


# ---------------------------------------------------------------- several processes


def launch(folder: Path, *command: str) -> None:
    """Two processes on the CPU (gloo). `accelerate launch --cpu` would start one, whatever it is asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, "-m"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_train_what_one_does_on_twice_the_batch(folder: Path, base: Path, tmp_path: Path) -> None:
    """One folder is written, once, and the change of the weights is that of one process, up to the order in which
    floats are added up."""
    import torch

    from alignstack.training import sft

    chats = (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "chats.jsonl").write_text("".join(chats[:8]), encoding="utf-8")
    for name, batch in (("one", 8), ("two", 4)):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nparent: {base}\nout: {name}\ndata: [chats.jsonl]\nmax_length: 48\nlog_every: 1\n"
            f"optimiser: {{batch: {batch}, steps: 3, learning_rate: 1.0e-3, warmup: 0, precision: fp32}}\n"
        )
    launch(tmp_path, "alignstack", "train", "sft", "--config", "two.yaml")
    sft.run(tmp_path / "one.yaml")
    start, one, two = (
        torch.cat([weights.flatten() for weights in trainer.load(checkpoint)[0].parameters()])
        for checkpoint in (base, tmp_path / "one", tmp_path / "two")
    )
    assert float((one - start).norm()) > 0.1
    assert float((one - two).norm()) < 1e-3 * float((one - start).norm())
    assert lineage.read(tmp_path / "two").steps == 3
    assert not (tmp_path / "two.work").exists()


if __name__ == "__main__":
    {"offline": offline, "kill": kill}[sys.argv[1]](*map(Path, sys.argv[2:]))
