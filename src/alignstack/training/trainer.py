"""The only module that touches transformers' Trainer and TRL: their names and defaults change between versions.

torch is loaded when a function runs, never on import. Nothing here talks to a network or reports anywhere.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from pydantic import Field

from alignstack.training.recipe import Strict

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Optimiser(Strict):
    """The hyper-parameters a recipe may set."""

    batch: int = Field(default=16, ge=1)
    """Sequences a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=50, ge=0)
    """Steps."""
    weight_decay: float = Field(default=0.1, ge=0)
    epochs: float = Field(default=1.0, gt=0)
    compile: bool = False
    """torch.compile: a fifth faster on long runs with one sequence length, needs a C compiler."""


def common(optimiser: Optimiser, seed: int, scratch: str) -> dict[str, Any]:
    """Settings of every trainer: CPU, bf16 autocast, cosine schedule, seeded, nothing saved or reported midway."""
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": optimiser.batch,
        "learning_rate": optimiser.learning_rate,
        "warmup_steps": optimiser.warmup,
        "weight_decay": optimiser.weight_decay,
        "adam_beta2": 0.95,  # as in GPT-3 (Brown et al. 2020, appendix B)
        "num_train_epochs": optimiser.epochs,
        "lr_scheduler_type": "cosine",
        "torch_compile": optimiser.compile,
        "bf16": True,
        "use_cpu": True,
        "gradient_checkpointing": False,  # on by default in TRL; slower on a CPU
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 50,
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "include_num_input_tokens_seen": "non_padding",
    }


def seed_everything(seed: int) -> None:
    """Python, numpy and torch; with one thread on one machine a run is then repeatable."""
    from transformers import set_seed

    set_seed(seed)


def causal_lm(model: PreTrainedModel, dataset: Dataset[Any], optimiser: Optimiser, seed: int) -> int:
    """Train on rows of `input_ids` and `labels`; returns the tokens seen."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model, args=TrainingArguments(**common(optimiser, seed, scratch)), train_dataset=dataset
        )
        trainer.train()
    return int(trainer.state.num_input_tokens_seen)


def sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, Any]],
    optimiser: Optimiser,
    seed: int,
    max_length: int,
) -> int:
    """Train on rows of `messages` with the loss on the assistant's tokens alone; returns the tokens seen."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            **common(optimiser, seed, scratch),
            assistant_only_loss=True,
            max_length=max_length,
            train_sampling_strategy="group_by_length",  # little padding without packing
        )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.train()
    return int(trainer.state.num_input_tokens_seen)


def blend(model: PreTrainedModel, parent: Path, share: float) -> None:
    """Move the weights back towards the parent's, in place: parent + share x (model - parent)."""
    import torch

    with torch.no_grad():
        for tuned, before in zip(model.parameters(), load(parent)[0].parameters(), strict=True):
            tuned.copy_(torch.lerp(before.float(), tuned.float(), share))


def load(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model and tokenizer of a checkpoint folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in float32 safetensors, configuration and tokenizer."""
    model.float().save_pretrained(out)
    tokenizer.save_pretrained(out)
