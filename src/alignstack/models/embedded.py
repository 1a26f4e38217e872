"""The embedded model: a few million parameters on onnxruntime, no torch, no key, no download.

One sequence at a time on one thread, so that an answer depends on checkpoint, messages and sampling alone, never on
what else runs: batched matrix products round differently from batch size to batch size. Weights are kept as int8 in
the file and computed in float32; two kinds of CPU may still add up in another order, which can flip a near tie between
two tokens. Different prompts run in different threads (onnxruntime releases the interpreter lock).
"""

import asyncio
import codecs
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from alignstack.core.errors import DataError, NotFound
from alignstack.core.messages import Message, digest
from alignstack.core.ports import Delta, Finish, Sampling

ASSETS = Path(__file__).parent / "assets/embedded"
SHIPPED = ("aligned", "helpful")
RUNTIME = "1"
"""Raise it whenever the code below could answer the same input with another text."""
PENALTY, WINDOW = 1.1, 48
"""Logits of the last `WINDOW` generated tokens are divided (positive) or multiplied (negative) by `PENALTY`, which
stops a small model from looping (Keskar et al. 2019). The prompt is exempt: copying its words is wanted."""
COLDEST = 1e-3
"""Temperatures below it are greedy: dividing by them would overflow or round to the same thing."""
RESERVE = 96
"""Tokens of the context that a long prompt leaves free for the answer."""
MAX_TOKENS = 256
"""Of an answer, where neither request nor stack file says."""
CHARS_PER_TOKEN = 16
"""Text is cut to this many characters a token of room before it is tokenised: a generous bound that keeps a 10 MB
prompt from costing more than a short one."""

Cache = tuple[Any, ...]
"""Keys and values of every layer, as onnxruntime values."""


class Embedded:
    """A checkpoint that `alignstack.training.export` wrote."""

    class Config(BaseModel):
        """`checkpoint` is one that ships (`aligned`, `helpful`) or the path of an exported `.onnx` file with its
        `tokenizer.json` beside it."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        use: str = "embedded"
        checkpoint: str = "aligned"
        temperature: float | None = Field(default=None, ge=0)
        """Used in place of the request's."""
        max_tokens: int | None = Field(default=None, ge=1)
        """Upper bound on the request's."""

    def __init__(self, config: Config, *, base: Path = Path()) -> None:
        self.config = config
        self.name = f"embedded:{Path(config.checkpoint).stem}"
        self._file = _find(config.checkpoint, base)

    @staticmethod
    def default_reference(config: Config) -> dict[str, str] | None:
        """The unaligned parent of the shipped aligned checkpoint."""
        return {"use": "embedded", "checkpoint": "helpful"} if config.checkpoint == "aligned" else None

    @cached_property
    def version(self) -> str:
        parts = [
            _sha256(self._file),
            _sha256(self._file.with_name("tokenizer.json")),
            RUNTIME,
            PENALTY,
            WINDOW,
            RESERVE,
        ]
        return digest(*parts, self.config.temperature, self.config.max_tokens)[:16]

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        """One delta a token that completes a character. Closing the stream stops after the token being computed."""
        run = asyncio.get_running_loop().run_in_executor
        steps = await run(_threads(), self._steps, tuple(messages), sampling)
        while True:
            item = await run(_threads(), next, steps)
            yield item
            if isinstance(item, Finish):
                return

    def _steps(self, messages: tuple[Message, ...], sampling: Sampling) -> Iterator[Delta | Finish]:
        temperature = sampling.temperature if self.config.temperature is None else self.config.temperature
        limits = [limit for limit in (sampling.max_tokens, self.config.max_tokens) if limit is not None]
        limit = min(limits, default=MAX_TOKENS)
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        model = load(self._file)
        prompt = model.prompt(messages, limit)
        limit = min(limit, model.context - prompt.length)
        return _answer(model, prompt, _Sampler(temperature or 0.0, top_p, sampling.seed or 0), limit)


def _find(checkpoint: str, base: Path) -> Path:
    """The ONNX file. Raises NotFound for an unknown name and DataError for a missing file."""
    path = base / checkpoint
    if checkpoint in SHIPPED:
        path = ASSETS / f"{checkpoint}.onnx"
    elif path.suffix != ".onnx":
        raise NotFound("embedded checkpoint", checkpoint, (*SHIPPED, "PATH.onnx"))
    for file in (path, path.with_name("tokenizer.json")):
        if not file.is_file():
            raise DataError(
                f"the embedded model's file {str(file)!r} is missing; reinstall alignstack, or make it with "
                "`python -m alignstack.training.export CHECKPOINT OUT`"
            )
    return path


@cache
def _sha256(file: Path) -> str:
    import hashlib

    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="embedded")


# ---------------------------------------------------------------- text to tokens and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids of a conversation, the system part apart because its cache is kept."""

    system: tuple[int, ...]
    turns: tuple[int, ...]
    truncated: bool

    @property
    def length(self) -> int:
        return len(self.system) + len(self.turns)


@dataclass(slots=True, kw_only=True)
class Tokens:
    """A byte-level tokenizer that cannot be talked into special tokens: text is encoded without them, and only
    `mark` makes them."""

    encoder: Any
    special: dict[str, int]
    pieces: list[bytes]
    """The bytes of each token id; empty for special ones."""

    def ids(self, text: str, room: int, keep: str) -> tuple[list[int], bool]:
        """At most `room` ids of the text and whether something was cut; `keep` is the end that stays: head or tail."""
        chars = room * CHARS_PER_TOKEN
        cut = text[:chars] if keep == "head" else text[max(len(text) - chars, 0) :]
        clean = cut.strip().encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be encoded
        ids = self.encoder.encode(clean).ids
        kept = ids[:room] if keep == "head" else ids[max(len(ids) - room, 0) :]
        return kept, len(cut) < len(text) or len(kept) < len(ids)

    def mark(self, role: str) -> int:
        return self.special.get(f"<|{role}|>", self.special["<|user|>"])

    @property
    def end(self) -> int:
        return self.special["<|end|>"]


def _read_tokens(file: Path) -> Tokens:
    from tokenizers import Tokenizer

    tree = json.loads(file.read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in tree["added_tokens"]}
    vocabulary = tree["model"]["vocab"]
    tree["added_tokens"] = []
    alphabet = _byte_alphabet()
    pieces = [b""] * len(vocabulary)
    for piece, i in vocabulary.items():
        pieces[i] = b"" if piece in special else bytes(alphabet[char] for char in piece)
    return Tokens(encoder=Tokenizer.from_str(json.dumps(tree)), special=special, pieces=pieces)


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes with (Radford et al. 2019): printable ones stand for
    themselves, the others for code points from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


# ---------------------------------------------------------------- the network


@dataclass(slots=True)
class Model:
    """A loaded checkpoint; safe to use from several threads."""

    session: Any
    tokens: Tokens
    context: int
    prefixes: dict[tuple[int, ...], Cache] = field(default_factory=dict)
    """Caches of the system prompts seen last. A system prompt is always computed on its own, so an answer is the same
    whether its cache was there or not."""

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> Prompt:
        """System messages keep their head and at most half of the context; of the turns the newest stay, the oldest
        one that still fits without its head."""
        room = self.context - min(max_tokens, RESERVE)
        system, cut = self._system(messages, self.context // 2)
        turns: list[int] = [self.tokens.mark("assistant")]
        left = room - len(system) - len(turns)
        for message in reversed([m for m in messages if m.role != "system"]):
            if left <= 3:
                cut = True
                break
            ids, shortened = self.tokens.ids(message.content, left - 2, "tail")
            turns[:0] = [self.tokens.mark(message.role), *ids, self.tokens.end]
            left -= len(ids) + 2
            cut |= shortened
        return Prompt(system=system, turns=tuple(turns), truncated=cut)

    def _system(self, messages: Sequence[Message], room: int) -> tuple[tuple[int, ...], bool]:
        text = "\n\n".join(message.content for message in messages if message.role == "system")
        if not text.strip():
            return (), False
        ids, cut = self.tokens.ids(text, room - 2, "head")
        return (self.tokens.mark("system"), *ids, self.tokens.end), cut

    def start(self, prompt: Prompt) -> tuple[np.ndarray, Cache]:
        """Logits after the prompt, and its cache."""
        past = self._prefix(prompt.system) if prompt.system else self._empty()
        return self.step(prompt.turns, past)

    def step(self, ids: Sequence[int], past: Cache) -> tuple[np.ndarray, Cache]:
        """Logits [vocab] after `ids`, and the cache with them."""
        import onnxruntime

        new = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([ids], dtype=np.int64))
        names = (value.name for value in self.session.get_inputs())
        logits, *present = self.session.run_with_ort_values(None, dict(zip(names, (new, *past), strict=True)))
        return logits.numpy()[0], tuple(present)

    def _prefix(self, ids: tuple[int, ...]) -> Cache:
        found = self.prefixes.get(ids)
        if found is None:
            _, found = self.step(ids, self._empty())
            if len(self.prefixes) >= 8:
                self.prefixes.clear()
            self.prefixes[ids] = found
        return found

    def _empty(self) -> Cache:
        import onnxruntime

        shapes = [value.shape for value in self.session.get_inputs() if value.name != "ids"]
        blank = [np.zeros((1, shape[1], 0, shape[3]), np.float32) for shape in shapes]
        return tuple(onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in blank)


@cache
def load(file: Path) -> Model:
    """Read an exported checkpoint (about a tenth of a second), once a process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        context = int(session.get_modelmeta().custom_metadata_map["context"])
    except Exception as error:  # onnxruntime's own errors share no public base class
        raise DataError(f"{str(file)!r} is no checkpoint of the embedded model: {error}") from None
    return Model(session, _read_tokens(file.with_name("tokenizer.json")), context)


# ---------------------------------------------------------------- decoding


class _Sampler:
    """Chooses the next token: the best one at temperature 0, else a seeded draw from the nucleus (Holtzman et al.
    2020)."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.random = np.random.default_rng(abs(seed))

    def __call__(self, logits: np.ndarray, recent: Sequence[int]) -> int:
        logits = logits.astype(np.float64)
        if recent:
            seen = np.unique(recent)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / PENALTY, logits[seen] * PENALTY)
        if self.temperature < COLDEST:
            return int(logits.argmax())
        return self._draw(logits / self.temperature)

    def _draw(self, logits: np.ndarray) -> int:
        odds = np.exp(logits - logits.max())
        odds /= odds.sum()
        order = np.argsort(-odds, kind="stable")
        kept = order[: int(np.searchsorted(np.cumsum(odds[order]), self.top_p)) + 1]
        return int(self.random.choice(kept, p=odds[kept] / odds[kept].sum()))


def _answer(model: Model, prompt: Prompt, sampler: _Sampler, limit: int) -> Iterator[Delta | Finish]:
    """Deltas and then the Finish; works one token for each item asked."""
    logits, past = model.start(prompt)
    decoder, out, waiting = codecs.getincrementaldecoder("utf-8")("replace"), list[int](), 0
    while len(out) < limit:
        token = sampler(logits, out[-WINDOW:])
        if token == model.tokens.end:
            break
        out.append(token)
        waiting += 1
        if text := decoder.decode(model.tokens.pieces[token]):
            yield Delta(text=text, tokens=waiting)
            waiting = 0
        if len(out) < limit:
            logits, past = model.step([token], past)
    if waiting:
        yield Delta(text=decoder.decode(b"", final=True), tokens=waiting)
    yield Finish(
        reason="length" if len(out) >= limit else "stop",
        input_tokens=prompt.length,
        output_tokens=len(out),
        truncated=prompt.truncated,
    )
