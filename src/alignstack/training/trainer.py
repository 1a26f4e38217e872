"""The only module that touches transformers' Trainer, TRL and PEFT: their names and defaults change between versions.

One function a method; each takes a model, rows and a Run, and gives a Trained. torch is loaded when a function runs,
never on import. Nothing here talks to a network, and nothing reports anywhere unless the recipe names a tracker.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a run has one bar, its own (progress.py)
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.training.monitor import Monitor, Now, Stop
from alignstack.training.recipe import Strict

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

COMPLETE = "alignstack.json"
"""Written into a midway checkpoint last of all: one without it was cut off by a kill and is passed over."""

Tracker = Literal["tensorboard", "wandb", "mlflow"]
Row = dict[str, Any]
RewardFunction = Callable[..., list[float]]
"""TRL's: keywords `prompts`, `completions` (both conversations), and every further column of the rows."""


class Optimiser(Strict):
    """The hyper-parameters a recipe may set."""

    batch: int = Field(default=16, ge=1)
    """Sequences a step and device."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are added up before a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=50, ge=0)
    """Steps."""
    weight_decay: float = Field(default=0.1, ge=0)
    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    """In place of `epochs`."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: matrix products in bfloat16 (autocast), weights and optimiser in float32."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """torch.compile: a fifth faster on long runs with one sequence length, needs a C compiler."""


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2021) in place of full fine-tuning; merged into the weights at the end."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run is run, apart from what it learns."""

    work: Path
    """Folder for midway checkpoints and trackers' files."""
    seed: int
    optimiser: Optimiser
    max_length: int = 512
    """Tokens of a sequence; longer ones are cut at the end."""
    lora: Lora | None = None
    save_every: int = 0
    """Steps between midway checkpoints; 0: none."""
    log_every: int = 10
    """Steps."""
    resume: bool = False
    """Go on from the newest whole midway checkpoint in `work`, if there is one."""
    monitors: tuple[Monitor, ...] = ()
    track: tuple[Tracker, ...] = ()


@dataclass(slots=True, kw_only=True)
class Trained:
    """What a run left behind."""

    model: PreTrainedModel
    """Adapters merged; the whole model also after sharded training."""
    tokenizer: PreTrainedTokenizerFast | None = None
    steps: int
    tokens: int
    """Tokens seen in training, by the trainer's count; 0 where it counts none."""
    seconds: float
    """Of the training loop alone."""
    stop: Stop | None = None
    main: bool = True
    """Is this the process that writes? False in all but one of a distributed run."""
    history: list[dict[str, float]] = field(default_factory=list)
    """What the trainer logged, oldest first, each with `step`."""


# ---------------------------------------------------------------- methods


def causal_lm(model: PreTrainedModel, dataset: Dataset[Any], run: Run) -> Trained:
    """Next-token loss on rows of `input_ids` and `labels`."""
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(**common(run), include_num_input_tokens_seen="non_padding")
    return _train(Trainer(model=model, args=args, train_dataset=dataset), run)


def sft(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], run: Run) -> Trained:
    """Next-token loss on rows of `messages`, on the assistant's tokens alone."""
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(
        **common(run),
        include_num_input_tokens_seen="non_padding",
        assistant_only_loss=True,
        max_length=run.max_length,
    )
    trainer = SFTTrainer(model=model, args=args, **_parts(tokenizer, rows, ("messages",), run))
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    trainer._get_train_sampler = lambda *_: _alike(lengths, run)
    return _train(trainer, run)


def _alike(lengths: Sequence[int], run: Run) -> Any:
    """Batches of sequences alike in length: little padding without packing. transformers' own `group_by_length` draws
    from torch's global state, so that a resumed run sees another order from its second epoch on; here the order is
    that of seed and epoch."""
    import torch

    batch = run.optimiser.batch * run.optimiser.accumulate

    class Alike(torch.utils.data.Sampler[int]):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(lengths)

        def __iter__(self) -> Iterator[int]:
            order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(run.seed + self.epoch))
            for some in order.split(50 * batch):  # as many batches are sorted together as transformers does
                yield from sorted(some.tolist(), key=lambda i: -lengths[i])

    return Alike()


PAIR = ("prompt", "chosen", "rejected")


def losses() -> tuple[str, ...]:
    """Names of the losses that the installed TRL has for DPO; it lists them in the help of its setting alone."""
    from trl import DPOConfig

    described = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    return tuple(dict.fromkeys(re.findall(r"`'(\w+)'`", described)))


def reward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], run: Run, *, center: float | None
) -> Trained:
    """Bradley–Terry loss, -log sigmoid(r_chosen - r_rejected - margin), on pairs; `model` has one output
    (`load_scorer`). `center` is the weight of the penalty on the squared sum of both rewards, which keeps them near 0
    (Eisenstein et al. 2023); None: no penalty. TRL leaves out pairs longer than `max_length`."""
    from trl import RewardConfig, RewardTrainer

    columns = (*PAIR, "margin") if any("margin" in row for row in rows) else PAIR
    rows = [{"margin": 0.0, **row} for row in rows]
    args = RewardConfig(**common(run), max_length=run.max_length, center_rewards_coefficient=center)
    return _train(
        RewardTrainer(model=model, args=args, **_parts(tokenizer, rows, columns, run, task="SEQ_CLS")),
        run,
    )


def dpo(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    run: Run,
    **settings: Any,
) -> Trained:
    """Direct preference losses on pairs. `reference` is a second model, loaded from the parent's folder (with LoRA
    None: the reference is the model without its adapters); `settings` go to DPOConfig (`beta`, `loss_type` …)."""
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(**common(run), max_length=run.max_length, **settings)
    return _train(DPOTrainer(model=model, ref_model=reference, args=args, **_parts(tokenizer, rows, PAIR, run)), run)


def kto(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    run: Run,
    **settings: Any,
) -> Trained:
    """KTO (Ethayarajh et al. 2024) on rows of `prompt`, `completion` and `label` (True: desirable)."""
    from trl import KTOConfig, KTOTrainer

    args = KTOConfig(**common(run), max_length=run.max_length, **settings)
    columns = ("prompt", "completion", "label")
    return _train(KTOTrainer(model=model, ref_model=reference, args=args, **_parts(tokenizer, rows, columns, run)), run)


def orpo(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], run: Run, **settings: Any
) -> Trained:
    """ORPO (Hong et al. 2024) on pairs, without a reference; experimental in TRL."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    args = ORPOConfig(**common(run), max_length=run.max_length, **settings)
    rows = _fitting(tokenizer, rows, run.max_length)
    return _train(ORPOTrainer(model=model, args=args, **_parts(tokenizer, rows, PAIR, run)), run)


def cpo(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], run: Run, **settings: Any
) -> Trained:
    """CPO and, by `loss_type="simpo"`, SimPO (Meng et al. 2024) on pairs, without reference; experimental in TRL."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    args = CPOConfig(**common(run), max_length=run.max_length, **settings)
    rows = _fitting(tokenizer, rows, run.max_length)
    return _train(CPOTrainer(model=model, args=args, **_parts(tokenizer, rows, PAIR, run)), run)


def _fitting(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], room: int) -> list[Row]:
    """Pairs that need not be cut: these trainers cut answers away whole, and the mean over no token is no number.
    Raises DataError when none is left."""
    kept = [row for row in rows if all(length(tokenizer, [*row["prompt"], *row[side]]) <= room for side in PAIR[1:])]
    if not kept:
        raise DataError(f"no pair has at most {room} tokens; raise `max_length`, or give shorter texts")
    return kept


def length(tokenizer: PreTrainedTokenizerFast, chat: Sequence[Mapping[str, str]]) -> int:
    """Tokens of a conversation, the template's marks included."""
    return len(tokenizer.apply_chat_template(chat)["input_ids"])


def policy_gradient(
    algorithm: Literal["grpo", "rloo"],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    run: Run,
    *,
    rewards: Mapping[str, RewardFunction],
    weights: Sequence[float],
    **settings: Any,
) -> Trained:
    """GRPO (Shao et al. 2024) or RLOO (Ahmadian et al. 2024) on rows of `prompt` and whatever columns the rewards
    read, the same in every row. `settings` go to the trainer's config (`beta`, `num_generations`,
    `max_completion_length` …). The reference for the KL term is read from the folder that the model was loaded from
    (with LoRA: the model without its adapters)."""
    import trl

    config, trainer = (trl.GRPOConfig, trl.GRPOTrainer) if algorithm == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)
    args = config(**common(run), reward_weights=list(weights), **settings)
    functions = [_named(function, name) for name, function in rewards.items()]
    columns = tuple(rows[0])
    return _train(trainer(model=model, args=args, reward_funcs=functions, **_parts(tokenizer, rows, columns, run)), run)


def common(run: Run) -> dict[str, Any]:
    """Settings of every trainer: seeded, nothing sent anywhere, midway checkpoints as the run says."""
    import torch

    optimiser, gpu = run.optimiser, torch.cuda.is_available()
    return {
        "output_dir": str(run.work),
        "per_device_train_batch_size": optimiser.batch,
        "gradient_accumulation_steps": optimiser.accumulate,
        "learning_rate": optimiser.learning_rate,
        "warmup_steps": optimiser.warmup,
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.clip,
        "adam_beta2": 0.95,  # as in GPT-3 (Brown et al. 2020, appendix B)
        "num_train_epochs": optimiser.epochs,
        "max_steps": optimiser.steps or -1,
        "lr_scheduler_type": optimiser.schedule,
        "torch_compile": optimiser.compile,
        "bf16": optimiser.precision == "bf16",
        "use_cpu": not gpu,
        "activation_checkpointing": optimiser.checkpointing,  # TRL has it on under its old name
        "report_to": list(run.track) or "none",
        "save_strategy": "steps" if run.save_every else "no",
        "save_steps": run.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": run.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        "disable_tqdm": True,
        "seed": run.seed,
        "data_seed": run.seed,
    }


# ---------------------------------------------------------------- the run


def _parts(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], columns: Sequence[str], run: Run, task: str = "CAUSAL_LM"
) -> dict[str, Any]:
    """The arguments that all TRL trainers share."""
    from datasets import Dataset

    kept = [{name: row[name] for name in columns} for row in rows]
    parts: dict[str, Any] = {"train_dataset": Dataset.from_list(kept), "processing_class": tokenizer}
    if run.lora is not None:
        from peft import LoraConfig

        parts["peft_config"] = LoraConfig(
            r=run.lora.rank,
            lora_alpha=run.lora.alpha,
            lora_dropout=run.lora.dropout,
            target_modules=run.lora.targets,
            modules_to_save=["score"] if task == "SEQ_CLS" else None,  # without it the reward head is lost
            task_type=task,
        )
    return parts


def _named(function: RewardFunction, name: str) -> RewardFunction:
    """TRL logs a reward under its function's name."""

    def named(**columns: Any) -> list[float]:
        return function(**columns)

    named.__name__ = name
    return named


def _train(trainer: Any, run: Run) -> Trained:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    callback = _callback(trainer, run)
    trainer.add_callback(callback)
    found = latest(run.work) if run.resume else None
    if found is not None:
        callback.restore(found)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    seconds = time.monotonic() - started
    history = [dict(entry) for entry in trainer.state.log_history]
    counted = [entry["num_tokens"] for entry in history if "num_tokens" in entry]
    return Trained(
        model=_whole(trainer, run),
        tokenizer=trainer.processing_class,
        steps=trainer.state.global_step,
        tokens=int(trainer.state.num_input_tokens_seen or (counted[-1] if counted else 0)),
        seconds=seconds,
        stop=callback.stop,
        main=trainer.is_world_process_zero(),
        history=history,
    )


def _whole(trainer: Any, run: Run) -> PreTrainedModel:
    """The trained model without wrappers, adapters and shards."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(run.work / "whole"))  # all processes take part in gathering
        model = type(model).from_pretrained(run.work / "whole")
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


@contextmanager
def main_first() -> Iterator[bool]:
    """Of the processes of a distributed run the one that writes goes first, and the others see what it has written.
    Gives whether this is that one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from accelerate import PartialState

    state = PartialState()
    with state.main_process_first():
        yield bool(state.is_main_process)


def latest(work: Path) -> Path | None:
    """The newest midway checkpoint that was written to its end."""
    found = [path for path in work.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def _callback(trainer: Any, run: Run) -> Any:
    from transformers import TrainerCallback

    class Monitors(TrainerCallback):  # type: ignore[misc]
        """Passes on to the run's monitors what the trainer says."""

        stop: Stop | None = None

        def now(self, state: Any) -> Now:
            return Now(
                step=state.global_step,
                steps=state.max_steps,
                epoch=float(state.epoch or 0),
                model=trainer.model,
                tokenizer=trainer.processing_class,
                trainer=trainer,
            )

        def restore(self, checkpoint: Path) -> None:
            states = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
            for monitor in run.monitors:
                monitor.restore(states.get(monitor.name, {}))

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for monitor in run.monitors:
                monitor.begin(self.now(state))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ask(control, [monitor.step(self.now(state)) for monitor in run.monitors])

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            values = {name: float(value) for name, value in logs.items() if isinstance(value, (int, float))}
            self.ask(control, [monitor.log(self.now(state), values) for monitor in run.monitors])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not state.is_world_process_zero:
                return
            states = {monitor.name: monitor.state() for monitor in run.monitors}
            folder = run.work / f"checkpoint-{state.global_step}"
            _durable(folder)
            (folder / COMPLETE).write_text(json.dumps(states), encoding="utf-8")
            _durable(folder / COMPLETE)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for monitor in run.monitors:
                monitor.end(self.now(state))

        def ask(self, control: Any, answers: list[Stop | None]) -> None:
            stops = [answer for answer in answers if answer is not None]
            if stops and self.stop is None:
                self.stop = next((stop for stop in stops if stop.failed), stops[0])
                control.should_training_stop = True

    return Monitors()


def _durable(path: Path) -> None:
    """On disk, not in a cache: a checkpoint that is called whole must survive a power cut."""
    for file in path.iterdir() if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


# ---------------------------------------------------------------- models


def seed_everything(seed: int) -> None:
    """Python, numpy and torch; with one thread on one machine a run is then repeatable."""
    from transformers import set_seed

    set_seed(seed)


def load(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model and tokenizer of a checkpoint folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True),
        AutoTokenizer.from_pretrained(checkpoint, local_files_only=True),
    )


def load_scorer(checkpoint: Path, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The same with one output in place of the vocabulary: a reward model. Its head is new (and seeded) when the
    checkpoint has none."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    seed_everything(seed)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1, local_files_only=True)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def device() -> str:
    """Where models beside the trained one are put."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in float32 safetensors, configuration, tokenizer and chat template."""
    model.float().save_pretrained(out)
    tokenizer.save_pretrained(out)


def blend(model: PreTrainedModel, parent: Path, share: float) -> None:
    """Move the weights back towards the parent's, in place: parent + share x (model - parent)."""
    import torch

    with torch.no_grad():
        for tuned, before in zip(model.parameters(), load(parent)[0].parameters(), strict=True):
            tuned.copy_(torch.lerp(before.float(), tuned.float(), share))


@contextmanager
def quiet(model: PreTrainedModel) -> Iterator[None]:
    """No gradients, no dropout, and torch's random state and the model's mode afterwards as before."""
    import torch

    mode, state = model.training, torch.get_rng_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(mode)
        torch.set_rng_state(state)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    batch: int = 16,
) -> list[str]:
    """One answer to each conversation; empty where it did not come to its end within `max_tokens`."""
    import torch

    prompts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # alike in length: little padding
    answers = [""] * len(prompts)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    with quiet(model):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            made = _batch(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens=max_tokens, **sampling)
            for i, text in zip(chosen, made, strict=True):
                answers[i] = text
    return answers


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    batch: int = 32,
) -> list[float]:
    """The reward of each whole conversation. What is longer than the model's context is cut at the end."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
    scores = [0.0] * len(texts)
    with quiet(model):
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = tokenizer(
                [texts[i] for i in chosen], return_tensors="pt", padding=True, padding_side="right", truncation=True,
                max_length=model.config.max_position_embeddings, add_special_tokens=False,
            )  # fmt: skip
            inputs.pop("token_type_ids", None)
            for i, value in zip(chosen, model(**inputs.to(model.device)).logits[:, 0].tolist(), strict=True):
                scores[i] = value
    return scores


def _batch(model: Any, tokenizer: Any, prompts: list[str], **settings: Any) -> list[str]:
    settings["pad_token_id"], settings["eos_token_id"] = tokenizer.pad_token_id, tokenizer.eos_token_id
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    ids = model.generate(**inputs.to(model.device), **settings)[:, inputs["input_ids"].shape[1] :]
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() if end else "" for text, end in zip(texts, ended, strict=True)]
