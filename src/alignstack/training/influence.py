"""Which training examples pushed toward a failure: how much a step on each would make the failing answer likelier.

First order only: the dot product of two gradients, that of an example's own loss and that of the failing answer's
log-probability (TracIn, Pruthi et al. 2020), or their cosine. It says which way an example pulls, not what a model
trained without it would do: that is found by training without it.

A linear layer's gradient for one example is a sum of outer products, of what goes in (x) and what comes back (d). Its
dot product with a given gradient G is the sum of d·Gx, and its square norm the sum of (x·x')(d·d') over pairs of
tokens. So no gradient of an example is ever stored, and none has to be projected to a smaller space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from alignstack.core.errors import DataError
from alignstack.training import scores, trainer

if TYPE_CHECKING:
    import torch

Failure = tuple[Sequence[scores.Turn], str] | tuple[Sequence[scores.Turn], str, str]
"""Turns up to the request, the answer that should not have been given and, better with it, the one that was wanted (a
refusal, where the failure is harm; an answer, where it is over-refusal)."""
Method = Literal["gradient", "tracin", "similarity"]
Parameters = Literal["all", "last"]

TINY = 1e-30
"""In place of a length of 0, which only a row without any effect has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One training example."""

    index: int
    """Of the row, as it was given."""
    origin: str | None
    """File and line it came from, where the row says so."""
    score: float
    """Above 0: a step on it makes the failing answers likelier. `tracin`: nats of their mean log-probability (less that
    of the wanted answers) per unit of learning rate; `gradient`: -1 to 1; `similarity`: -1 to 1, and says nothing of
    direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A part of a row's loss: `weight` times the log-probability of the counted tokens."""

    tokens: scores.Tokens
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is looked at."""

    unit: bool
    """Gradients scaled to length 1: cosines."""
    parameters: Parameters
    opening: int | None
    beta: float
    max_length: int | None
    batch: int


def rank(
    checkpoints: Sequence[Path],
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    *,
    method: Method = "tracin",
    parameters: Parameters = "all",
    opening: int | None = 2,
    rates: Sequence[float] | None = None,
    parent: Path | None = None,
    beta: float = 0.1,
    max_length: int | None = None,
    batch: int = 16,
) -> list[Ranked]:
    """The rows of one stage, most responsible for the failures first.

    `checkpoints` of that stage: the one it started from, and midway ones; at its end what was learnt has no gradient
    left. Scores are summed over them, weighted by `rates` (learning rates at that time; all alike unless given).
    `tracin` is the dot product with the failures' mean gradient, `gradient` the mean cosine, `similarity` the cosine of
    mean hidden states at the last of the checkpoints: the baseline that knows nothing of training. `parameters`:
    the linear layers of all blocks, or of the last one only. Embeddings, the output head and norms are left out: they
    say which words occur. `opening`: only so many tokens at the start of each answer count, since there the decision to
    refuse falls (Qi et al. 2024, "Safety alignment should be made more than just a few tokens deep"), and an answer
    whose wording surprises does not drown it; None: all of them.

    Rows are those of any method with answers: conversations, pairs (the DPO loss with `beta`; `parent` gives the
    reference, without it the margin counts as 0) and labelled answers (the KTO loss with its reference point at 0).
    Raises DataError when a row has no answer, there is nothing to compare, or the model has no linear layers.
    """
    if not checkpoints or not rows or not failures:
        raise DataError("influence needs at least one checkpoint, one row and one failure")
    look = Look(
        unit=method == "gradient", parameters=parameters, opening=opening, beta=beta, max_length=max_length, batch=batch
    )
    found = np.zeros(len(rows))
    if method == "similarity":
        found += _similarity(checkpoints[-1], rows, failures, look)
    else:
        for at, rate in zip(checkpoints, rates or [1 / len(checkpoints)] * len(checkpoints), strict=True):
            found += rate * _gradients(at, rows, failures, _margins(parent, at, rows, beta), look)
    order = np.argsort(-found, kind="stable")
    return [Ranked(index=int(i), origin=rows[i].get("origin"), score=float(found[i])) for i in order]


# ---------------------------------------------------------------- the losses


def parts(tokenizer: Any, row: Mapping[str, Any], margin: float, look: Look) -> list[Signed]:
    """A row's loss, up to a constant, as signed log-probabilities, linear around the current weights. `margin` is the
    implicit reward (of chosen less rejected, or of the one answer), already times beta."""

    def signed(chat: Sequence[scores.Turn], weight: float, last: bool = True) -> Signed:
        return _signed(tokenizer, chat, weight, look, last)

    if "messages" in row:
        return [signed(row["messages"], -1.0, last=False)]
    if "chosen" in row and "rejected" in row:
        slope = look.beta * _sigmoid(-margin)  # of -log sigmoid(margin), Rafailov et al. 2023, section 4
        return [signed([*row["prompt"], *row["chosen"]], -slope), signed([*row["prompt"], *row["rejected"]], slope)]
    if "completion" in row and "label" in row:
        slope = look.beta * _sigmoid(margin) * _sigmoid(-margin)  # of 1 - sigmoid(±margin), Ethayarajh et al. 2024
        return [signed([*row["prompt"], *row["completion"]], -slope if row["label"] else slope)]
    raise DataError(
        f"row {row.get('origin', '')!r} has no answer to follow (fields: {', '.join(sorted(row))}); influence reads "
        "`messages`, `prompt` with `chosen` and `rejected`, or `prompt` with `completion` and `label`"
    )


def goal(tokenizer: Any, failure: Failure, look: Look) -> list[Signed]:
    """What a harmful step raises: log p(failing answer), less log p(wanted answer) where there is one. The difference
    is about the decision; the first alone is mostly about how answers are worded."""
    asked, *answers = failure
    chats = [[*asked, {"role": "assistant", "content": answer}] for answer in answers]
    return [_signed(tokenizer, chat, w, look, last=True) for chat, w in zip(chats, (1.0, -1.0), strict=False)]


def _signed(tokenizer: Any, chat: Sequence[scores.Turn], weight: float, look: Look, last: bool) -> Signed:
    tokens = scores.encode(tokenizer, chat, last=last, max_length=look.max_length)
    return Signed(tokens=tokens if look.opening is None else opened(tokens, look.opening), weight=weight)


def opened(tokens: scores.Tokens, n: int) -> scores.Tokens:
    """Only the first `n` tokens of each answer count, and what comes after the last of them is cut."""
    counted, run = [], 0
    for one in tokens.counted:
        run = run + 1 if one else 0
        counted.append(0 < run <= n)
    end = len(counted) - counted[::-1].index(True)
    return scores.Tokens(ids=tokens.ids[:end], counted=counted[:end])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _margins(parent: Path | None, at: Path, rows: Sequence[Mapping[str, Any]], beta: float) -> np.ndarray:
    """Implicit rewards of the rows at a checkpoint, 0 where they have none; shape [rows]."""
    found = np.zeros(len(rows))
    paired = [i for i, row in enumerate(rows) if "chosen" in row]
    labelled = [i for i, row in enumerate(rows) if "completion" in row]
    if parent is not None and paired:
        found[paired] = scores.margins(at, parent, [rows[i] for i in paired], beta)
    if parent is not None and labelled:
        answers = [[*rows[i]["prompt"], *rows[i]["completion"]] for i in labelled]
        after, before = (scores.logprob(*trainer.load(folder), answers) for folder in (at, parent))
        found[labelled] = beta * (after - before)
    return found


# ---------------------------------------------------------------- the gradients


def _gradients(
    checkpoint: Path,
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    margins: np.ndarray,
    look: Look,
) -> np.ndarray:
    """Scores at one checkpoint, shape [rows]."""
    model, tokenizer = trainer.load(checkpoint)  # dropout is off in what was just loaded
    layers = linear(model, look.parameters)
    wanted = direction(model, tokenizer, layers, [goal(tokenizer, failure, look) for failure in failures], look.unit)
    losses = [parts(tokenizer, row, margin, look) for row, margin in zip(rows, margins, strict=True)]
    dots, squares = np.zeros(len(rows)), np.ones(len(rows))
    for chosen in _alike(losses, look.batch):
        dot, square = products(model, tokenizer, layers, [losses[i] for i in chosen], wanted, norms=look.unit)
        dots[chosen], squares[chosen] = dot, square
    return -dots / np.sqrt(np.maximum(squares, TINY))  # a step goes against the gradient of the row's loss


def _alike(losses: Sequence[Sequence[Signed]], batch: int) -> Iterator[list[int]]:
    """Batches of rows with as many parts, alike in length."""
    order = sorted(range(len(losses)), key=lambda i: (len(losses[i]), max(len(p.tokens.ids) for p in losses[i])))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        for size in sorted({len(losses[i]) for i in part}):
            yield [i for i in part if len(losses[i]) == size]


def linear(model: Any, parameters: Parameters) -> dict[str, torch.nn.Linear]:
    """The linear layers whose weights are looked at, by name. Raises DataError when there are none."""
    import torch

    head = model.get_output_embeddings()
    found = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    if not found:
        raise DataError(f"{type(model).__name__} has no linear layers that influence could follow")
    if parameters == "last":
        final = _block(list(found)[-1])
        found = {name: layer for name, layer in found.items() if _block(name) == final}
    return found


def _block(name: str) -> str:
    """`model.layers.5.mlp.up_proj` → `model.layers.5`"""
    pieces = name.split(".")
    numbered = [i for i, piece in enumerate(pieces) if piece.isdigit()]
    return ".".join(pieces[: numbered[0] + 1]) if numbered else name


def direction(
    model: Any, tokenizer: Any, layers: Mapping[str, torch.nn.Linear], goals: Sequence[Sequence[Signed]], unit: bool
) -> dict[str, torch.Tensor]:
    """Mean gradient of the goals by layer, shapes [out, in]. With `unit` each one is scaled to length 1 first, so that
    one answer with a steep gradient does not outweigh the others."""
    import torch

    total = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for one in goals:
        found: dict[str, torch.Tensor] = {}

        def take(name: str, x: torch.Tensor, d: torch.Tensor, found: dict[str, torch.Tensor] = found) -> None:
            found[name] = d.flatten(0, 1).T @ x.flatten(0, 1)

        with watched(layers, take):
            _backward(model, tokenizer, [one])
        length = math.sqrt(sum(float(g.square().sum()) for g in found.values())) if unit else 1.0
        for name, gradient in found.items():
            total[name] += gradient / max(length * len(goals), TINY)
    return total


def products(
    model: Any,
    tokenizer: Any,
    layers: Mapping[str, torch.nn.Linear],
    losses: Sequence[Sequence[Signed]],
    wanted: Mapping[str, torch.Tensor],
    *,
    norms: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's gradient: dot product with `wanted` and square norm (1 without `norms`), shapes [rows]. All rows
    have as many parts."""
    import torch

    dots = torch.zeros(len(losses))
    squares = torch.zeros(len(losses)) if norms else torch.ones(len(losses))

    def take(name: str, x: torch.Tensor, d: torch.Tensor) -> None:
        x, d = (t.reshape(len(losses), -1, t.shape[-1]) for t in (x, d))  # a row's parts are one long sequence
        dots.add_(((d @ wanted[name]) * x).sum((1, 2)).cpu())
        if norms:
            squares.add_(((x @ x.transpose(1, 2)) * (d @ d.transpose(1, 2))).sum((1, 2)).cpu())

    with watched(layers, take):
        _backward(model, tokenizer, losses)
    return dots.double().numpy(), squares.double().numpy()


@contextmanager
def watched(
    layers: Mapping[str, torch.nn.Linear], take: Callable[[str, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `take(name, x, d)` in the backward pass: a layer's input and the gradient of its output, both of shape
    [sequences, tokens, width]. Weights get no gradients of their own."""

    def watch(name: str) -> Callable[..., None]:
        def forward(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach()
            if not output.requires_grad:  # the first of them: the graph starts here
                output.requires_grad_()
            output.register_hook(lambda d: take(name, x, d.detach()))

        return forward

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _backward(model: Any, tokenizer: Any, losses: Sequence[Sequence[Signed]]) -> None:
    """One forward and one backward pass over all parts of all rows."""
    import torch

    flat = [part for loss in losses for part in loss]
    ids, attended, counted = (t.to(model.device) for t in scores.padded(tokenizer, [part.tokens for part in flat]))
    model.requires_grad_(False)
    with torch.enable_grad():
        logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1]
        logs = torch.log_softmax(logits[counted[:, 1:]].float(), dim=-1).gather(1, ids[counted][:, None])[:, 0]
        weights = torch.tensor([part.weight for part in flat], device=model.device)
        (logs * weights[counted.nonzero()[:, 0]]).sum().backward()


# ---------------------------------------------------------------- the baseline


def _similarity(
    checkpoint: Path, rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure], look: Look
) -> np.ndarray:
    """Cosine between a row and the failures' mean direction; of pairs, that of the chosen answer."""
    model, tokenizer = trainer.load(checkpoint)
    whole = replace(look, opening=None)
    asked = [goal(tokenizer, failure, whole)[0].tokens for failure in failures]
    known = [parts(tokenizer, row, 0.0, whole)[0].tokens for row in rows]
    theirs, ours = (_hidden(model, tokenizer, tokens, look.batch) for tokens in (asked, known))
    found: np.ndarray = ours @ theirs.mean(0) / max(float(np.linalg.norm(theirs.mean(0))), TINY)
    return found


def _hidden(model: Any, tokenizer: Any, encoded: Sequence[scores.Tokens], batch: int) -> np.ndarray:
    """Mean last hidden state over all tokens, request included, scaled to length 1; shape [conversations, width]."""
    import torch

    found: list[torch.Tensor] = []
    for start in range(0, len(encoded), batch):
        ids, attended, _ = (t.to(model.device) for t in scores.padded(tokenizer, encoded[start : start + batch]))
        with trainer.quiet(model):
            states = model(input_ids=ids, attention_mask=attended, output_hidden_states=True).hidden_states[-1]
        mean = (states * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True)
        found.append(torch.nn.functional.normalize(mean.float(), dim=-1))
    return torch.cat(found).cpu().numpy()
