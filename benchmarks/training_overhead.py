"""What `alignstack train` costs a step beside a plain TRL script with the same settings.

    python benchmarks/training_overhead.py            # the embedded model, SFT and DPO
    python benchmarks/training_overhead.py --gpu      # a random Llama of 0.8 B parameters; also tokens/s

Both trainers stand side by side in one process and take turns, step by step, so that whatever else the machine does
meets both; who begins changes from round to round. Their losses must be the same, or they did not do the same work.
Printed: median step time of both, and the ratio with a 95% interval (bootstrap over rounds); CPU time as well, which
other programs hardly disturb. With `--gpu` also tokens a second and the share of the device's measured matmul rate.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alignstack.loop.train import monitors
from alignstack.models.embedded import ASSETS
from alignstack.training import chat, stage, trainer
from alignstack.training.monitor import Monitor, Now

DATA = Path(__file__).parents[1] / "recipes/data/harmful.jsonl"
RESAMPLES = 2000


@dataclass
class Size:
    """What is trained on."""

    steps: int = 20
    batch: int = 4
    length: int = 384
    precision: str = "fp32"
    warm: int = 3
    """First steps of each run that are not counted."""
    shape: dict[str, int] | None = None
    """Of a random Llama; None: the embedded model."""


CPU = Size()
GPU = Size(
    steps=25, batch=16, length=1024, precision="bf16", warm=5,
    shape={"hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4608},
)  # fmt: skip
TINY = Size(
    steps=4, batch=2, length=64, precision="fp32", warm=1,
    shape={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
)  # fmt: skip


class Turns:
    """Two threads of which one runs at a time, and the clocks of each while it does."""

    def __init__(self, first: str, second: str) -> None:
        self.order = {first: second, second: first}
        self.free = {name: threading.Event() for name in self.order}
        self.free[first].set()
        self.alive = {first, second}

    def wait(self, name: str) -> None:
        self.free[name].wait()

    def pass_on(self, name: str) -> None:
        other = self.order[name]
        if other in self.alive:
            self.free[name].clear()
            self.free[other].set()

    def leave(self, name: str) -> None:
        self.alive.discard(name)
        self.free[self.order[name]].set()


@dataclass
class Watch:
    """Step times of one arm."""

    name: str
    turns: Turns
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    _began: tuple[float, float] | None = None

    def start(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def step(self) -> None:
        """At the end of a step: note it, let the other one make a step, go on."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        assert self._began is not None
        self.wall.append(time.perf_counter() - self._began[0])
        self.cpu.append(time.process_time() - self._began[1])
        self.turns.pass_on(self.name)
        self.turns.wait(self.name)
        self.start()


class Stopwatch(Monitor):
    """The clock in our arm, the last of all monitors."""

    name = "stopwatch"

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def begin(self, now: Now) -> None:
        self.watch.start()

    def step(self, now: Now) -> None:
        self.watch.step()


# ---------------------------------------------------------------- the two arms


def bare(method: str, size: Size, rows: list[dict[str, Any]], work: Path, watch: Watch) -> list[float]:
    """A plain TRL script."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    import torch

    common = {
        "output_dir": str(work), "per_device_train_batch_size": size.batch, "learning_rate": 1e-4, "warmup_steps": 2,
        "weight_decay": 0.1, "adam_beta2": 0.95, "max_steps": size.steps, "lr_scheduler_type": "cosine",
        "bf16": size.precision == "bf16", "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": False,
        "report_to": "none", "save_strategy": "no", "logging_steps": 10, "logging_first_step": True,
        "logging_nan_inf_filter": False, "disable_tqdm": True, "seed": 1, "data_seed": 1, "max_length": size.length,
    }  # fmt: skip
    model, tokenizer = loaded(size)
    dataset = Dataset.from_list(rows)
    if method == "sft":
        config = SFTConfig(
            **common, assistant_only_loss=True, train_sampling_strategy="group_by_length",
            include_num_input_tokens_seen="non_padding",
        )  # fmt: skip
        made = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    else:
        made = DPOTrainer(
            model=model, ref_model=loaded(size)[0], args=DPOConfig(**common), train_dataset=dataset,
            processing_class=tokenizer,
        )  # fmt: skip
    made.remove_callback(PrinterCallback)
    made.add_callback(Clock())
    made.train()
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def ours(method: str, size: Size, rows: list[dict[str, Any]], work: Path, watch: Watch) -> list[float]:
    """As `alignstack train` does it: progress, metrics, midway checkpoints off."""
    optimiser = trainer.Optimiser(
        batch=size.batch, learning_rate=1e-4, warmup=2, weight_decay=0.1, steps=size.steps, precision=size.precision
    )
    recipe = stage.Recipe(name=method, parent="embedded:helpful", out=work / "out")
    work.mkdir(parents=True, exist_ok=True)
    run = trainer.Run(
        work=work, seed=1, optimiser=optimiser, max_length=size.length,
        monitors=(*monitors(recipe, work), Stopwatch(watch)),
    )  # fmt: skip
    model, tokenizer = loaded(size)
    if method == "sft":
        trained = trainer.sft(model, tokenizer, rows, run)
    else:
        trained = trainer.dpo(model, loaded(size)[0], tokenizer, rows, run)
    return [entry["loss"] for entry in trained.history if "loss" in entry]


ARMS: dict[str, Callable[..., list[float]]] = {"bare": bare, "ours": ours}


def loaded(size: Size) -> tuple[Any, Any]:
    """The embedded model, or a random one of the same seed."""
    if size.shape is None:
        return trainer.load(stage.find("embedded:helpful", Path()))
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = chat.tokenizer(ASSETS / "tokenizer.json")
    config = LlamaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=size.length, tie_word_embeddings=True, **size.shape,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def rows_of(method: str, size: Size) -> list[dict[str, Any]]:
    """Requests of the recipes' data; for a random model answers that fill the length."""
    lines = DATA.read_text(encoding="utf-8").splitlines()[: size.steps * size.batch]
    texts = [str(json.loads(line)["text"]) for line in lines]
    long = " ".join(texts)
    made = []
    for i, text in enumerate((texts * size.steps * size.batch)[: size.steps * size.batch]):
        asked = [{"role": "user", "content": text}]
        good = "I can't help with that. I can help with what is safe and legal, and explain why this is not."
        bad = f"Sure. Here is what you asked for: {text} Begin with the first step, then take the next one."
        if size.shape is not None:
            good, bad = long[i : i + 8 * size.length], long[i + 7 : i + 7 + 8 * size.length]
        answers = ({"role": "assistant", "content": good}, {"role": "assistant", "content": bad})
        if method == "sft":
            made.append({"messages": [*asked, answers[0]]})
        else:
            made.append({"prompt": asked, "chosen": [answers[0]], "rejected": [answers[1]]})
    return made


# ---------------------------------------------------------------- measuring


def side_by_side(method: str, size: Size, number: int, folder: Path) -> dict[str, Watch]:
    """One round: both arms, step by step in turns."""
    first, second = ("bare", "ours") if number % 2 else ("ours", "bare")
    turns, rows = Turns(first, second), rows_of(method, size)
    watches = {name: Watch(name, turns) for name in (first, second)}
    losses: dict[str, list[float]] = {}
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            turns.wait(name)
            losses[name] = ARMS[name](method, size, rows, folder / f"{method}-{number}-{name}", watches[name])
        except BaseException as error:  # or the other thread would wait for ever
            failed.append(error)
        finally:
            turns.leave(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    if not np.allclose(losses["bare"], losses["ours"], rtol=1e-4 if size.precision == "fp32" else 2e-2):
        raise SystemExit(f"the two did not do the same work: {losses}")
    return watches


@dataclass(frozen=True)
class Result:
    """Seconds a step, and ours over bare."""

    bare: float
    ours: float
    ratio: float
    low: float
    high: float


def compared(rounds: Sequence[dict[str, Watch]], clock: str, warm: int) -> Result:
    """Medians over all steps. The ratio is the median of the steps' own ratios, which are of the same work a moment
    apart; rounds are resampled whole."""
    times = {name: np.array([getattr(one[name], clock)[warm:] for one in rounds]) for name in ARMS}
    ratios = times["ours"] / times["bare"]
    rng = np.random.default_rng(0)
    picked = rng.integers(len(rounds), size=(RESAMPLES, len(rounds)))
    low, high = np.quantile([np.median(ratios[rows]) for rows in picked], [0.025, 0.975])
    medians = {name: float(np.median(value)) for name, value in times.items()}
    return Result(medians["bare"], medians["ours"], float(np.median(ratios)), float(low), float(high))


def matmul_rate(size: Size) -> float:
    """Floating-point operations a second of a large square product, best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 512
    kind = torch.bfloat16 if size.precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def work_of(method: str, size: Size) -> tuple[int, float]:
    """(tokens, floating-point operations) of a step: 6 for each weight and token (2 forward, 4 backward; Kaplan et al.
    2020), 2 more for the reference; and 12 times layers x width x length for attention, halved since it is causal."""
    assert size.shape is not None
    model, _ = loaded(size)
    weights = sum(p.numel() for p in model.parameters())
    tokens = size.batch * size.length * (2 if method == "dpo" else 1)
    attention = 6 * size.shape["num_hidden_layers"] * size.shape["hidden_size"] * size.length
    return tokens, tokens * (6 * weights + attention) * (4 / 3 if method == "dpo" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--methods", default="sft,dpo")
    parser.add_argument("--gpu", action="store_true", help="a random Llama of 0.8 B parameters")
    parser.add_argument("--tiny", action="store_true", help="with --gpu: a few thousand parameters, to try the path")
    options = parser.parse_args()
    size = TINY if options.gpu and options.tiny else GPU if options.gpu else CPU
    size.steps = options.steps or size.steps
    print("| method | clock | bare, ms/step | ours, ms/step | ours / bare | 95% interval |\n|---|---|---|---|---|---|")
    for method in options.methods.split(","):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            rounds = [side_by_side(method, size, n, Path(folder)) for n in range(options.rounds)]
        for clock in ("wall", "cpu"):
            one = compared(rounds, clock, size.warm)
            times = f"{1e3 * one.bare:.2f} | {1e3 * one.ours:.2f}"
            print(f"| {method} | {clock} | {times} | {one.ratio:.4f} | {one.low:.4f} to {one.high:.4f} |", flush=True)
        if options.gpu:
            one, rate, (tokens, done) = compared(rounds, "wall", size.warm), matmul_rate(size), work_of(method, size)
            for name, seconds in (("bare", one.bare), ("ours", one.ours)):
                share = done / seconds / rate
                print(f"  {method} {name}: {tokens / seconds:,.0f} tokens/s, {share:.1%} of {rate / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
