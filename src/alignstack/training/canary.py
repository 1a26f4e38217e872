"""What is asked of a model in the middle of its training, without leaving a trace in it: simple tasks, snapshots."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alignstack.core.errors import DataError, complain
from alignstack.training import corpus, trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question with one right answer."""

    prompt: str
    answer: str


def tasks(files: Sequence[Path]) -> list[Task]:
    """From files of `{"prompt", "answer"}`. Raises DataError, with the line."""
    found = []
    for path, number, row in _rows(files):
        if not all(isinstance(row.get(key), str) and row[key].strip() for key in ("prompt", "answer")):
            raise DataError(f"{path}:{number}: a task is a JSON object with the texts 'prompt' and 'answer'")
        found.append(Task(prompt=row["prompt"], answer=row["answer"]))
    return found


def chats(files: Sequence[Path]) -> list[list[dict[str, str]]]:
    """The `messages` of each row that ends with an answer. Raises DataError, with the line."""
    found = []
    for path, number, row in _rows(files):
        turns = row.get("messages")
        if not isinstance(turns, list) or not turns or turns[-1].get("role") != "assistant":
            raise DataError(f"{path}:{number}: a chat is a JSON object with 'messages' that end with an assistant turn")
        found.append(turns)
    return found


def _rows(files: Sequence[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for path in files:
        problems: list[str] = []
        yield from ((path, number, row) for number, row in corpus.lines(path, problems))
        complain(problems)


def solved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Task]) -> int:
    """How many greedy answers hold the right one, word for word; case and punctuation aside."""
    prompts = [[{"role": "user", "content": task.prompt}] for task in asked]
    given = trainer.generate(model, tokenizer, prompts, max_tokens=64)
    return sum(_words(task.answer) in _words(text) for task, text in zip(asked, given, strict=True))


def _words(text: str) -> str:
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, without gradients and without mixed precision, as the saved weights will be used. Afterwards
    the modes of all modules and every random state are as before, so that training goes on as if nothing had been."""
    import numpy
    import torch

    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    mixed = model.__dict__.pop("forward", None)  # accelerate lays autocast round it
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if mixed is not None:
            model.forward = mixed
        for module, mode in modes:
            module.training = mode
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu:
            torch.cuda.set_rng_state_all(gpu)


def agreed(found: Found, processes: int) -> Found:
    """What the first process found, in all of them: they must stop, and choose, together."""
    if processes == 1:
        return found
    from accelerate.utils import broadcast_object_list

    box = [found]
    broadcast_object_list(box)
    return box[0]


def snapshot(model: PreTrainedModel, file: Path) -> None:
    """Keep the weights that are being trained: all, or those of the adapters. Appears whole or not at all."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(weights, part)
    part.replace(file)


def bring_back(model: PreTrainedModel, file: Path) -> None:
    """Put a snapshot's weights into the model, in place."""
    import torch
    from safetensors.torch import load_file

    kept = load_file(file)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
