"""Token by token from a causal language model of transformers, several answers at once.

Answers that are decoded together share forward passes and nothing else: prompts are padded on the left and masked,
each answer has its own random generator and its own processors, and each ends on its own. Batched matrix products
round differently from batch size to batch size, which can flip a near tie between two tokens.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from alignstack.core.ports import Delta, Finish
from alignstack.models.template import Chat, Prompt

if TYPE_CHECKING:
    from torch import Tensor

COLDEST = 1e-3
"""Temperatures below it are greedy: dividing by them would overflow or round to the same thing."""

_TURNS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
"""One for each model: whoever decodes sets its mode, so nobody else may."""

LogitsProcessor = Callable[[Any, Any], Any]
"""transformers' own protocol: token ids so far [1, T] and logits [1, vocab] → logits [1, vocab]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for, nothing left open."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends."""


class Text:
    """Tokens to text as they come: a character of several tokens leaves whole, and so does what could turn out to be
    the beginning of a stop."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, [text for text in stop if text]
        self._tokens: list[int] = []
        self._start = self._read = 0
        """Tokens from `start` to `read` have left; they are decoded again with the next, which may depend on them."""
        self._before = self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What can leave now."""
        self._tokens.append(token)
        now = self._decode(self._tokens[self._start :])
        if now.endswith("\ufffd"):  # part of a character
            return ""
        new = now[len(self._before) :]
        self._start, self._read = self._read, len(self._tokens)
        self._before = self._decode(self._tokens[self._start :])
        return self._past(new)

    def rest(self) -> str:
        """What was waiting for more."""
        text = self._past(self._decode(self._tokens[self._start :])[len(self._before) :])
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _past(self, new: str) -> str:
        text = self._held + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text with which the stop could begin."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class Answer:
    """One answer in the making. `send` is called with its deltas and with its Finish."""

    def __init__(
        self,
        network: Network,
        prompt: Prompt,
        wanted: Wanted,
        processors: Sequence[LogitsProcessor],
        send: Callable[[Delta | Finish], None],
    ) -> None:
        import torch

        self.prompt, self.out = prompt, list[int]()
        self.processors = copy.deepcopy(list(processors))  # some keep state from token to token
        self.over = False
        """No further token is wanted: it has ended, or nobody listens any more."""
        self._temperature, self._top_p = wanted.temperature, wanted.top_p
        self._limit = min(wanted.max_tokens, network.chat.context - len(prompt.ids))
        self._ends, self._send, self._waiting = network.ends, send, 0
        self._text = Text(network.decode, wanted.stop)
        self._random = torch.Generator().manual_seed(abs(wanted.seed))

    @property
    def greedy(self) -> bool:
        return self._temperature < COLDEST and not self.processors

    def choose(self, logits: Tensor) -> int:
        """The next token from logits [1, vocab]."""
        import torch

        if self.processors:
            ids = torch.tensor([[*self.prompt.ids, *self.out]], device=logits.device)
            for processor in self.processors:
                logits = processor(ids, logits)
        if self._temperature < COLDEST:
            return int(logits.argmax())
        return self._draw(torch.softmax(logits[0] / self._temperature, -1))

    def _draw(self, odds: Tensor) -> int:
        """From the nucleus (Holtzman et al. 2020). One random number a token: a draw hangs on nothing but the
        request."""
        import torch

        ordered, order = odds.sort(descending=True, stable=True)
        total = ordered.cpu().double().cumsum(0)
        kept = total[: int((total < self._top_p).sum()) + 1]
        point = torch.rand((), generator=self._random, dtype=torch.float64) * kept[-1]
        return int(order[min(int((kept <= point).sum()), len(kept) - 1)])

    def take(self, token: int) -> None:
        """Append a token, unless it says that the answer has ended."""
        if token in self._ends:
            return self._finish("stop")
        self.out.append(token)
        self._waiting += 1
        self._pass_on(self._text.add(token))
        if self._text.stopped or len(self.out) >= self._limit:
            self._finish("stop" if self._text.stopped else "length")

    def _pass_on(self, text: str) -> None:
        if text:
            self._send(Delta(text=text, tokens=self._waiting))
            self._waiting = 0

    def _finish(self, reason: Literal["stop", "length"]) -> None:
        self.over = True
        rest = "" if self._text.stopped else self._text.rest()
        if rest or self._waiting:
            self._send(Delta(text=rest, tokens=self._waiting))
        self._send(
            Finish(
                reason="stop" if self._text.stopped else reason,
                input_tokens=len(self.prompt.ids),
                output_tokens=len(self.out),
                truncated=self.prompt.truncated,
            )
        )


class Network:
    """A model with its tokenizer. One batch after the other is decoded, also where two of these share a model."""

    def __init__(self, model: Any, tokenizer: Any, chat: Chat) -> None:
        self.model, self.chat = model, chat
        self.ends = _ends(model, tokenizer)
        self._decoder = tokenizer.backend_tokenizer
        takes = inspect.signature(_inner(model).forward).parameters
        self._cache = "cache" if "cache" in takes else "past_key_values"  # renamed within transformers 5
        self._positions = "position_ids" in takes
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._turn = _TURNS.setdefault(model, threading.Lock())

    def decode(self, ids: list[int]) -> str:
        return str(self._decoder.decode(ids, skip_special_tokens=True))

    def answer(self, answers: Sequence[Answer]) -> None:
        """Decode until all are over. The model's mode (training or not) is afterwards as before; torch's random state
        is not touched."""
        import torch

        with self._turn, torch.no_grad(), _evaluating(self.model):
            self._answer([answer for answer in answers if not answer.over])

    def _answer(self, going: list[Answer]) -> None:
        import torch

        if not going:
            return
        ids, mask = self._padded([answer.prompt.ids for answer in going])
        cache = None
        while True:
            logits, cache = self._step(ids, mask, cache)
            _choose(going, logits)
            kept = [i for i, answer in enumerate(going) if not answer.over]
            if not kept:
                return
            if len(kept) < len(going):
                rows = torch.tensor(kept, device=mask.device)
                cache.batch_select_indices(rows)
                mask, going = mask[rows], [going[i] for i in kept]
            ids = torch.tensor([answer.out[-1:] for answer in going], device=mask.device)
            mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, T], padded on the left. Which id stands there does not matter: it is masked."""
        import torch

        longest = max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        ids = [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        return torch.tensor(ids, device=self.model.device), torch.tensor(mask, device=self.model.device)

    def _step(self, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, vocab] in float32 after `ids`, and the cache with them. `mask` covers the cache too."""
        given = {"input_ids": ids, "attention_mask": mask, self._cache: cache, "use_cache": True, **self._last}
        if self._positions:
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        made = self.model(**given)
        return made.logits[:, -1].float(), made[self._cache]


def _choose(answers: Sequence[Answer], logits: Tensor) -> None:
    best = logits.argmax(-1).tolist() if any(answer.greedy for answer in answers) else [0] * len(answers)
    for i, answer in enumerate(answers):
        if not answer.over:  # closed during the step
            answer.take(best[i] if answer.greedy else answer.choose(logits[i : i + 1]))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout; afterwards every part of the model is in the mode in which it was."""
    training = [part for part in model.modules() if part.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _inner(model: Any) -> Any:
    """The model within PEFT's wrapper, whose `forward` does not name its arguments."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    settings = getattr(model, "generation_config", None) or model.config
    found = settings.eos_token_id
    ids = found if isinstance(found, (list, tuple)) else [found]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
