"""`alignstack train pretrain`: a small Llama from scratch, on plain text and chats packed into fixed lengths."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.training import chat, corpus, lineage, trainer
from alignstack.training.recipe import RecipePath, Strict, load
from alignstack.training.stage import ALONE, Tools

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SAMPLE = 400_000
"""Characters of each source that the tokenizer is trained on, times its share of the tokens in millions."""


class Source(Strict):
    """Some files and how many tokens to take from them; shorter sources are read again."""

    files: list[RecipePath] = Field(min_length=1)
    tokens: int = Field(gt=0)


class Shape(Strict):
    """Llama architecture; embeddings are tied."""

    vocab: int = Field(default=4096, ge=300)
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    intermediate: int = 704
    context: int = 512


class Pretrain(Strict):
    """The recipe."""

    name: str = "base"
    out: RecipePath
    seed: int = 0
    sources: list[Source] = Field(min_length=1)
    length: int = Field(default=256, ge=16)
    """Tokens in a packed sequence."""
    model: Shape = Shape()
    save_every: int = Field(default=0, ge=0)
    """Steps between midway checkpoints, from which `--resume` goes on; 0: none."""
    optimiser: trainer.Optimiser = trainer.Optimiser()


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config, started = load(recipe, Pretrain), time.monotonic()
    trainer.seed_everything(config.seed)
    tokenizer = _tokenizer(config)
    blocks = pack(config, tokenizer)
    model = _model(config.model, tokenizer)
    work = config.out.with_name(config.out.name + ".work")
    settings = trainer.Run(
        work=work, seed=config.seed, optimiser=config.optimiser, save_every=config.save_every, resume=tools.resume,
        log_every=50, monitors=tuple(tools.monitors(config, work)),
    )  # fmt: skip
    trained = trainer.causal_lm(model, _dataset(blocks), settings)
    if trained.main:
        trainer.save(trained.model, tokenizer, config.out)
        lineage.write(
            config.out, stage=config.name, method="pretrain", parent=None, recipe=recipe, seed=config.seed,
            tokens=trained.tokens, data=[path for source in config.sources for path in source.files],
            seconds=time.monotonic() - started, steps=trained.steps,
        )  # fmt: skip
        shutil.rmtree(work, ignore_errors=True)
    return config.out


def texts(source: Source, rng: random.Random) -> Iterator[str]:
    """The rows of a source for ever, in a new random order each time round; chats are rendered by the template."""
    found = [_text(row) for path in source.files for row in corpus.rows(path)]
    if not found:
        raise DataError(f"no rows in {', '.join(str(path) for path in source.files)}")
    while True:
        rng.shuffle(found)
        yield from found


def _text(row: dict[str, Any]) -> str:
    if "messages" not in row:
        return str(row["text"]).strip() + chat.END
    roles = chat.ROLES
    return "".join(roles.get(m["role"], roles["user"]) + m["content"].strip() + chat.END for m in row["messages"])


def _tokenizer(config: Pretrain) -> PreTrainedTokenizerFast:
    sample: list[str] = []
    for source in config.sources:
        left = max(SAMPLE * source.tokens // 1_000_000, 50_000)
        for text in texts(source, random.Random(config.seed)):
            sample += [piece[:20_000] for piece in text.split("<|") if piece]
            left -= min(len(text), 20_000)
            if left < 0:
                break
    return chat.train_tokenizer(sample, config.model.vocab)


def pack(config: Pretrain, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Token ids of shape [sequences, length]. Every sequence starts with a document or goes on with a long one; the
    last document of a sequence is cut, so no sequence holds padding and few begin in the middle of a chat."""
    blocks: list[list[int]] = []
    for source in config.sources:
        blocks += _blocks(source, config, tokenizer)
    order = np.random.default_rng(config.seed).permutation(len(blocks))
    return np.array(blocks, dtype=np.int64)[order]


def _blocks(source: Source, config: Pretrain, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    wanted, block, blocks = source.tokens // config.length or 1, list[int](), list[list[int]]()
    for text in texts(source, random.Random(config.seed)):
        ids = tokenizer(text)["input_ids"]
        room = config.length - len(block)
        block, rest = block + ids[:room], ids[room:]
        while len(block) == config.length:
            blocks.append(block)
            long = len(rest) >= config.length  # the rest of a short document is dropped
            block, rest = (rest[: config.length], rest[config.length :]) if long else ([], [])
        if len(blocks) >= wanted:
            return blocks[:wanted]
    raise AssertionError("texts never end")


def _model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _dataset(blocks: np.ndarray) -> Dataset[Any]:
    import torch

    class Packed(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(blocks)

        def __getitem__(self, i: int) -> dict[str, Any]:
            ids = torch.from_numpy(blocks[i])
            return {"input_ids": ids, "labels": ids}

    return Packed()
