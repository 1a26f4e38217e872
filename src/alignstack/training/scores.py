"""What the weights think of given answers: log-probabilities, drift, implicit rewards, distance from the reference.

All by forward passes alone, in batches, float32, with dropout off. Only the assistant's tokens count, the end mark
among them, as the chat template marks them: the request costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignstack.core.errors import DataError
from alignstack.training import trainer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Turn = Mapping[str, str]
Chat = Sequence[Turn] | Mapping[str, Any]
"""A list of turns, or a row that holds one under `messages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One conversation as the model reads it."""

    ids: list[int]
    counted: list[bool]
    """Per token: does it belong to an answer that is scored? Never the first, which nothing predicts."""


def turns(chat: Chat) -> list[dict[str, str]]:
    found = chat["messages"] if isinstance(chat, Mapping) else chat
    return [dict(turn) for turn in found]


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat, *, last: bool, max_length: int | None = None) -> Tokens:
    """Token ids, and which of them are the assistant's: all its turns, or the last one only. Longer ones are cut at the
    end, as in training. Raises DataError when nothing is left to score, or the template does not mark the turns."""
    made: Any = tokenizer.apply_chat_template(turns(chat), return_dict=True, return_assistant_tokens_mask=True)
    mask = [bool(m) for m in made["assistant_masks"]]
    if last and any(mask):
        end = len(mask) - mask[::-1].index(True)
        start = end - [*mask[:end][::-1], False].index(False)
        mask = [start <= i < end for i in range(len(mask))]
    ids, mask = list(made["input_ids"])[:max_length], mask[:max_length]
    if not any(mask[1:]):
        raise DataError(
            "a conversation has no assistant's tokens to score: it needs an assistant's turn within the length limit, "
            "and a chat template that marks it with {% generation %}"
        )
    return Tokens(ids=ids, counted=[False, *mask[1:]])


def logprob(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Chat],
    batch: int = 16,
    *,
    per_token: bool = False,
) -> np.ndarray:
    """log p of each conversation's last answer in nats, shape [conversations]: the sum over its tokens, or
    their mean. The sum falls with every further token; the mean does not, but rewards padding with likely words."""
    encoded = [encode(tokenizer, chat, last=True) for chat in conversations]
    sums, counts = _sums(model, tokenizer, encoded, batch)
    return sums / counts if per_token else sums


def perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat], batch: int = 16
) -> float:
    """exp of the mean negative log-probability over all the assistant's tokens of all chats: at least 1, lower is
    better. The capability canary: alignment must not make plain answers unlikely."""
    if not chats:
        raise DataError("perplexity needs at least one chat")
    sums, counts = _sums(model, tokenizer, [encode(tokenizer, chat, last=False) for chat in chats], batch)
    return math.exp(-float(sums.sum() / counts.sum()))


def drift(
    checkpoint: Path, items: Sequence[tuple[Sequence[Turn], str, str]], *, per_token: bool = False, batch: int = 16
) -> list[float]:
    """log p(refusal) - log p(compliance) of each item (turns up to the request, refusal, compliance) in nats: above 0
    the weights would rather refuse. It moves from stage to stage before the verdict flips.

    Length enters: every token of the longer answer costs, mostly the compliance's. So compare one item between stages,
    where lengths are the same, and not two items. `per_token` takes means in place of sums: comparable between items,
    but then the first words, in which the decision falls, weigh little in a long answer.
    """
    model, tokenizer = trainer.load(checkpoint)
    chats = [[*asked, _said(answer)] for asked, *answers in items for answer in answers]
    found = logprob(model, tokenizer, chats, batch, per_token=per_token).reshape(-1, 2)
    return [float(value) for value in found[:, 0] - found[:, 1]]


def margins(
    checkpoint: Path, parent: Path, rows: Sequence[Mapping[str, Any]], beta: float = 0.1, batch: int = 16
) -> np.ndarray:
    """Implicit rewards of preference rows (`prompt`, `chosen`, `rejected`), shape [pairs]: beta times what chosen
    gained in log-probability since the parent less what rejected gained (Rafailov et al. 2023, equation 5). 0 at the
    start of training; above 0: learnt in the direction of the label."""
    pairs = [[*row["prompt"], *row[side]] for row in rows for side in ("chosen", "rejected")]
    after, before = (logprob(*trainer.load(at), pairs, batch).reshape(-1, 2) for at in (checkpoint, parent))
    gained = after - before
    found: np.ndarray = beta * (gained[:, 0] - gained[:, 1])
    return found


def never_learnt(margins: np.ndarray, floor: float = 0.0) -> list[int]:
    """Pairs whose margin is not above `floor` after training, the worst first: mislabelled, contradicted by others, or
    beyond the model."""
    return [int(i) for i in np.argsort(margins, kind="stable") if margins[i] <= floor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far a policy is from its reference on given answers."""

    mean: float
    """KL(policy || reference) in nats per token, over all tokens."""
    per_answer: np.ndarray
    """Summed over an answer's tokens, nats; shape [answers]."""
    tokens: int


def divergence(
    checkpoint: Path,
    parent: Path,
    conversations: Sequence[Chat],
    *,
    max_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 16,
) -> Divergence:
    """KL(checkpoint || parent) on the last answers, exact over the vocabulary at each position.

    A conversation that ends with the user's turn is answered by the checkpoint first (sampled, seeded): then the mean
    estimates the KL of whole answers, token by token. Empty answers, and sampled ones that do not end within
    `max_tokens`, are left out.
    """
    policy, tokenizer = trainer.load(checkpoint)
    chats = _answered(policy, tokenizer, conversations, max_tokens, temperature, seed, batch)
    if not chats:
        raise DataError(f"no answer of {str(checkpoint)!r} came to its end within {max_tokens} tokens")
    encoded = [encode(tokenizer, chat, last=True) for chat in chats]
    reference = trainer.load(parent)[0]
    sums, counts = np.zeros(len(chats)), sum(sum(e.counted) for e in encoded)
    for part in _batches(encoded, batch):
        ours, _, owners = _positions(policy, tokenizer, encoded, part)
        theirs, _, _ = _positions(reference, tokenizer, encoded, part)
        np.add.at(sums, owners, (ours.exp() * (ours - theirs)).sum(-1).double().cpu().numpy())
    return Divergence(mean=float(sums.sum() / counts), per_answer=sums, tokens=counts)


def kl(checkpoint: Path, parent: Path, conversations: Sequence[Chat], **settings: Any) -> float:
    """Mean KL(checkpoint || parent) in nats per token; settings are those of `divergence`."""
    return divergence(checkpoint, parent, conversations, **settings).mean


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def _answered(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Chat],
    max_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
) -> list[list[dict[str, str]]]:
    """The conversations with an answer at their end."""
    chats = [turns(chat) for chat in conversations]
    asked = [chat for chat in chats if chat[-1]["role"] != "assistant"]
    settings: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "batch": batch}
    made = iter(trainer.generate(model, tokenizer, asked, **settings) if asked else [])
    whole = [chat if chat[-1]["role"] == "assistant" else [*chat, _said(next(made))] for chat in chats]
    return [chat for chat in whole if chat[-1]["content"]]


def _sums(model: Any, tokenizer: Any, encoded: Sequence[Tokens], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probability and number of the counted tokens, per conversation."""
    sums = np.zeros(len(encoded))
    for part in _batches(encoded, batch):
        logs, targets, owners = _positions(model, tokenizer, encoded, part)
        np.add.at(sums, owners, logs.gather(1, targets[:, None])[:, 0].double().cpu().numpy())
    return sums, np.array([sum(e.counted) for e in encoded])


def _batches(encoded: Sequence[Tokens], batch: int) -> Iterator[list[int]]:
    """Indices, alike in length: little padding."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    for start in range(0, len(order), batch):
        yield order[start : start + batch]


def padded(
    tokenizer: PreTrainedTokenizerFast, encoded: Sequence[Tokens]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and counted mask, each of shape [conversations, longest], padded on the right."""
    import torch

    ids, attended, counted = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(v) for v in values], batch_first=True, padding_value=fill)
        for values, fill in (
            ([e.ids for e in encoded], tokenizer.pad_token_id or 0),
            ([[1] * len(e.ids) for e in encoded], 0),
            ([e.counted for e in encoded], False),
        )
    )
    return ids, attended, counted


def _positions(
    model: Any, tokenizer: Any, encoded: Sequence[Tokens], part: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """For every counted token of a batch: log-probabilities over the vocabulary before it, its id, its conversation.

    The softmax is taken at those positions alone: with large vocabularies it costs more memory than the model.
    """
    import torch

    ids, attended, counted = (t.to(model.device) for t in padded(tokenizer, [encoded[i] for i in part]))
    with trainer.quiet(model):
        logits = model(input_ids=ids, attention_mask=attended).logits[:, :-1]
        logs = torch.log_softmax(logits[counted[:, 1:]].float(), dim=-1)
    owners = np.array(part)[counted.nonzero()[:, 0].cpu().numpy()]
    return logs, ids[counted], owners
