"""A small linear classifier over hashed words and letters: what a text asks for, as a probability per hazard.

Stops: harmful requests and answers in English that look like those it learnt from, in about half a millisecond; known
shapes of jailbreaks and injected instructions; the same behind the disguises that `alignstack.core.normalise` undoes.
Does not stop: harm that only shows in context or over several turns, new topics, other languages, texts past the first
`MAX_CHARS` characters. It weighs words, not meaning: a harmless text about a harmful topic can be flagged, and a
harmful one in harmless words passes. docs/classifier.md has the numbers.
"""

import asyncio
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from alignstack.core.errors import ConfigError, DataError, Problem, nearest
from alignstack.core.layer import LayerInfo, Phase, Scope, View
from alignstack.core.messages import digest
from alignstack.core.normalise import CONTEXT, readings
from alignstack.core.verdict import Action, Verdict
from alignstack.policy import Policy

PHASES: tuple[Phase, ...] = ("request", "tool_call", "tool_result", "output")
EMBEDDED = Path(__file__).parent / "assets" / "classifier.npz"
MAX_CHARS = 65_536
"""Characters judged; what follows is out of scope."""
FORMAT = 2
"""Of the weights file; raised whenever the features change, since old weights mean nothing to new features."""
LONG = 5_000
"""Characters from which scoring runs in a thread, so that other requests are served meanwhile: from here on odd
texts take a millisecond."""

LONG_TEXT = 400
"""Characters from which sentences are judged one by one too: harmless padding would hide a request otherwise."""
PART = re.compile(r"[^.!?\n]{20,240}")
"""A sentence, or 240 characters where it does not end sooner."""
PART_MARGIN = 2.2
"""Log-odds by which a sentence must be more certain than a whole text: 0.5 takes 0.9. Chosen on the dev split: of short
requests padded with 1 500 or 6 000 harmless characters it finds 72 %, the whole text alone none; of 500 padded texts
without a request it flags none."""

Share = Annotated[float, Field(ge=0, le=1)]

# ---------------------------------------------------------------- features

BITS = 20
"""Features are hashed into 2 ** BITS buckets; on the dev split 18 lose 0.01 to 0.02 AUPRC to collisions."""
HAZARD_BITS = 18
"""The hazard weights are shared by the buckets whose first HAZARD_BITS bits agree, to keep the file small."""
CHAR_GRAMS = (3, 4, 5)
WORD_GRAMS = (1, 2, 3)


def _letter_codes() -> NDArray[np.uint32]:
    """Byte → code: 0 between words, letters and other scripts as they are, all digits alike."""
    codes = np.zeros(256, np.uint32)
    codes[ord("a") : ord("z") + 1] = np.arange(1, 27)
    codes[ord("0") : ord("9") + 1] = 27
    codes[128:] = np.arange(32, 160)
    return codes


_CODES = _letter_codes()
_INSIDE = (_CODES != 0).tobytes()
MAX_PLACE = 64
"""Letters further into a word than this all count as in the same place."""
_LONG_WORD = b"\1" * (MAX_PLACE + 1)
_BASE = np.uint32(0x01000193)
_FACTOR = 0x9E3779B1
_POWERS = np.full(2**18, _FACTOR, np.uint32)
_INVERSES = np.full(2**18, pow(_FACTOR, -1, 2**32), np.uint32)
for _table in (_POWERS, _INVERSES):
    _table[0] = 1
    np.cumprod(_table, dtype=np.uint32, out=_table)
_WORD_SALTS = np.array([[0x165667B1], [0x9E3779B1], [0xD3A2646D]], np.uint32)
_LETTER_SALTS = np.array([[0x85EBCA6B], [0xC2B2AE35], [0x27D4EB2F]], np.uint32)
_MIX, _UNUSED, _PIECE, _SHARED = np.uint32(15), np.uint32(32 - BITS), np.uint32(BITS + 1), np.uint32(BITS - HAZARD_BITS)
_BUCKET = np.uint32(2**BITS - 1)
_LETTERS = np.uint32(2**BITS)
BREAK = " \x1f "
"""Stands between pieces of text that are hashed in one go. Readings hold no control characters."""
MAX_PIECES = 2**11 - 1
"""In one go: the bits that a key has left."""
_GROUPS = np.arange(2 * MAX_PIECES + 1, dtype=np.uint32) << np.uint32(BITS)
"""The least key of each piece's words, and of its letters."""


def features(text: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Distinct buckets of the word 1- to 3-grams, and of the 3- to 5-letter runs that do not cross a space.

    Case, punctuation and the value of digits do not count. Both arrays are empty for a text without letters and digits.
    """
    keys = _keys(text.replace("\x1f", " "))
    words, letters = keys[keys < _LETTERS], keys[keys >= _LETTERS]
    return words.astype(np.intp), (letters & _BUCKET).astype(np.intp)


def _keys(text: str) -> NDArray[np.uint32]:
    """The distinct features of each piece of `text`, in rising order: number of the piece · 2 + (1 for letters), then
    `BITS` bits of bucket."""
    raw = f" {text.lower()}    ".encode(errors="replace")
    codes = _CODES.take(np.frombuffer(raw, np.uint8))
    flags = raw.translate(_INSIDE)
    inside = np.frombuffer(flags, np.bool_)
    before = (inside[1:] > inside[:-1]).nonzero()[0]
    if not len(before):
        return np.empty(0, np.uint32)
    n = len(codes) - 4
    grams = np.empty((3, n + len(before)), np.uint32)
    within = np.empty(grams.shape, np.bool_)
    _letters(codes, inside, grams[:, :n], within[:, :n])
    short = len(codes) <= len(_POWERS) and _LONG_WORD not in flags
    _words((_short_words if short else _any_words)(codes, before), grams[:, n:], within[:, n:])
    _mix(grams, n)
    if BREAK in text:
        piece = np.cumsum(np.frombuffer(raw, np.uint8) == 0x1F, dtype=np.uint32)
        _apart(piece.take(before), within[:, n:])
        grams |= np.concatenate((piece[:n], piece.take(before))) << _PIECE
    return _distinct(grams[within])


def _mix(grams: NDArray[np.uint32], letters: int) -> None:
    """Hashes to buckets, those of words behind the first columns, which are of `letters`."""
    grams ^= grams >> _MIX
    grams[:, :letters] *= _LETTER_SALTS
    grams[:, letters:] *= _WORD_SALTS
    grams >>= _UNUSED
    grams[:, :letters] |= _LETTERS


def _distinct(keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sorts in place."""
    keys.sort()
    new = np.empty(len(keys), np.bool_)
    new[0] = True
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return keys[new]


def _letters(
    codes: NDArray[np.uint32], inside: NDArray[np.bool_], grams: NDArray[np.uint32], within: NDArray[np.bool_]
) -> None:
    """Fills `grams` [3, n] with the hashes of 3, 4 and 5 letters from each place on, and marks those of one word."""
    n = len(codes) - 4
    grams[0] = (codes[:n] * _BASE + codes[1 : n + 1]) * _BASE + codes[2 : n + 2]
    grams[1] = grams[0] * _BASE + codes[3 : n + 3]
    grams[2] = grams[1] * _BASE + codes[4:]
    within[0] = inside[1 : n + 1]
    np.logical_and(within[0], inside[2 : n + 2], out=within[1])
    np.logical_and(within[1], inside[3 : n + 3], out=within[2])


def _any_words(codes: NDArray[np.uint32], before: NDArray[np.intp]) -> NDArray[np.uint32]:
    """Σ code · _FACTOR ** place over the letters of each word, place counting from 1 and up to MAX_PLACE. `before`:
    where the spaces before the words are."""
    place = np.arange(before[0], len(codes)) - before.repeat(np.diff(before, append=len(codes)))
    return np.add.reduceat(codes[before[0] :] * _POWERS.take(np.minimum(place, MAX_PLACE)), before - before[0])


def _short_words(codes: NDArray[np.uint32], before: NDArray[np.intp]) -> NDArray[np.uint32]:
    """The same in less time: powers of the place in the text, taken back a word at a time."""
    return np.add.reduceat(codes * _POWERS[: len(codes)], before) * _INVERSES.take(before)


def _words(one: NDArray[np.uint32], grams: NDArray[np.uint32], within: NDArray[np.bool_]) -> None:
    """Fills `grams` [3, words] with the hashes of 1, 2 and 3 words from each on."""
    grams[0] = one
    grams[1, :-1] = one[:-1] * _BASE + one[1:]
    grams[2, :-2] = grams[1, :-2] * _BASE + one[2:]
    within[:] = True
    within[1, -1:] = within[2, -2:] = False


def _apart(piece: NDArray[np.uint32], within: NDArray[np.bool_]) -> None:
    """Words of different pieces make no feature together."""
    np.equal(piece[:-1], piece[1:], out=within[1, :-1])
    np.equal(piece[:-2], piece[2:], out=within[2, :-2])


# ---------------------------------------------------------------- the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Weights as they lie in the file, and what the probabilities mean."""

    harm: NDArray[np.int8]
    """[2 ** BITS], for `harmful`."""
    hazards: NDArray[np.int8]
    """[2 ** HAZARD_BITS, hazards]."""
    scale: NDArray[np.float32]
    """[labels]: a weight is its int8 times this."""
    bias: NDArray[np.float32]
    calibration: NDArray[np.float32]
    """[labels, 2]: probability = sigmoid(a · logit + b), fitted on held-back data (Platt 1999)."""
    labels: tuple[str, ...]
    """`harmful` first, then hazard ids."""
    header: Mapping[str, Any]
    """What the file says about itself: data, hashes, calibration, thresholds."""
    sha256: str
    _slopes: NDArray[np.float64] = field(init=False, repr=False)
    _offsets: NDArray[np.float64] = field(init=False, repr=False)
    """[labels]: calibrated log-odds = slope · sum of int8 weights + offset."""

    def __post_init__(self) -> None:
        slopes, offsets = self.calibration.astype(np.float64).T
        object.__setattr__(self, "_slopes", slopes * self.scale)
        object.__setattr__(self, "_offsets", slopes * self.bias + offsets)

    def score(self, text: str) -> dict[str, float]:
        """Probability per label, of the reading of `text` that is most likely harmful."""
        return self.most_harmful(readings(text[:MAX_CHARS]))

    def most_harmful(self, texts: Sequence[str]) -> dict[str, float]:
        """Probability per label, of the reading, or sentence of a long one, that is most likely harmful. A sentence has
        to be more certain by `PART_MARGIN`."""
        pieces, margins = [], []
        for text in texts:
            parts = PART.findall(text) if len(text) >= LONG_TEXT else []
            pieces += [text, *parts]
            margins += [0.0, *[PART_MARGIN] * len(parts)]
        if _compiled is not None:
            return self._at_once(pieces, margins)
        several = range(0, len(pieces), MAX_PIECES)
        found = [self._best(pieces[at : at + MAX_PIECES], margins[at : at + MAX_PIECES]) for at in several]
        logit, keys, words = max(found, key=itemgetter(0))
        return dict(zip(self.labels, [_sigmoid(logit), *self._hazards(keys, words)], strict=True))

    def _at_once(self, pieces: Sequence[str], margins: Sequence[float]) -> dict[str, float]:
        assert _compiled is not None
        raw = np.frombuffer(f" {BREAK.join(pieces).lower()}    ".encode(errors="replace"), np.uint8)
        found = _compiled(raw, _CODES, np.array(margins), self.harm, self.hazards, self._slopes, self._offsets)
        return dict(zip(self.labels, found.tolist(), strict=True))

    def _best(self, pieces: Sequence[str], margins: Sequence[float]) -> tuple[float, NDArray[np.uint32], int]:
        """Of the most harmful piece: the log-odds of harm, its keys, how many of them are of words."""
        keys = _keys(BREAK.join(pieces))
        ends = keys.searchsorted(_GROUPS[: 2 * len(pieces) + 1])
        total = np.zeros(len(keys) + 1, np.int64)
        self.harm.take(keys & _BUCKET).cumsum(out=total[1:])
        sums = total.take(ends)
        sums = (sums[1:] - sums[:-1]) / np.sqrt(np.maximum(ends[1:] - ends[:-1], 1))
        logits = (sums[::2] + sums[1::2]) * self._slopes[0] + (self._offsets[0] - margins)
        best = int(logits.argmax())
        first, letters, end = ends[2 * best : 2 * best + 3].tolist()
        return float(logits[best]), keys[first:end], letters - first

    def _hazards(self, keys: NDArray[np.uint32], words: int) -> list[float]:
        """Probability per hazard, of the piece that has these keys, those of words first."""
        lengths = np.empty(len(keys))
        lengths[:words] = max(words, 1) ** -0.5
        lengths[words:] = max(len(keys) - words, 1) ** -0.5
        rows = self.hazards.take((keys & _BUCKET) >> _SHARED, axis=0)
        logits = (lengths @ rows.astype(np.float64)) * self._slopes[1:] + self._offsets[1:]
        return [_sigmoid(logit) for logit in logits.tolist()]


_compiled: Callable[..., NDArray[np.float64]] | None = None
"""Does what `Linear._best` and `Linear._hazards` do, once `warm` has found numba."""


def warm() -> None:
    """Compiles the scoring, or finds it compiled; without numba (the extra `fast`) it stays with numpy."""
    global _compiled
    if _compiled is None and find_spec("numba"):
        from alignstack.kernels.hashed_linear import most_harmful

        model = load(EMBEDDED)
        _compiled = most_harmful
        model.score("compile")


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(min(-logit, 700.0)))


def score(texts: Iterable[str], model: Linear | None = None) -> list[dict[str, float]]:
    """Probability per label (`harmful` and hazard ids) for each text; the embedded classifier unless one is given."""
    used = model or load(EMBEDDED)
    return [used.score(text) for text in texts]


def dump(path: Path, *, header: Mapping[str, Any], **arrays: NDArray[Any]) -> None:
    """Write a weights file; the same content gives the same bytes."""
    head = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in {"header": head, **arrays}.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


@lru_cache(maxsize=8)
def load(path: Path) -> Linear:
    """A weights file written by `alignstack train classifier`. Raises DataError."""
    try:
        raw = path.read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("harm", "hazards", "scale", "bias", "calibration")}
            header = json.loads(file["header"].tobytes())
    except FileNotFoundError:
        raise DataError(f"classifier {str(path)!r} does not exist; `embedded` is the built-in one") from None
    except OSError as error:
        raise DataError(f"classifier {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        raise DataError(f"{str(path)!r} is no weights file of `alignstack train classifier`, or damaged") from None
    if header.get("format") != FORMAT:
        raise DataError(f"{str(path)!r} was made by another version of alignstack; train it again")
    return Linear(labels=tuple(header["labels"]), header=header, sha256=hashlib.sha256(raw).hexdigest(), **arrays)


# ---------------------------------------------------------------- the layer


class ClassifierConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "embedded"
    """`embedded`, or the path of a weights file made by `alignstack train classifier`."""
    threshold: Share = 0.5
    """Block at this probability of harm and above."""
    per_hazard: Mapping[str, Share] = Field(default_factory=dict)
    """Hazard id → the threshold for texts of that hazard, in place of `threshold`."""


class Classifier:
    """Score = probability of harm of the most harmful reading, lowered when it is most like a hazard that this layer
    does not cover; hazard = the likeliest one that it covers."""

    Config = ClassifierConfig

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        name: str,
        phase: Phase | None,
        hazards: frozenset[str] | None,
        policy: Policy,
        base: Path = Path(),
    ) -> None:
        self._config, self._model = config, _model(config, name, base)
        known = self._model.labels[1:]
        _valid(config, name, phase, hazards, known)
        self._actions: dict[str, Action] = {
            hazard: policy.action(hazard, name)
            for hazard in known
            if hazard in policy.covered(name) and (hazards is None or hazard in hazards)
        }
        self.info = LayerInfo(
            name=name,
            use="classifier",
            phases=(phase or "request",),
            kind="veto",
            version=digest("classifier", self._model.sha256, config.model_dump(mode="json"), self._actions),
            scope=Scope(hazards=frozenset(self._actions), max_chars=MAX_CHARS),
            threshold=config.threshold,
            quick=True,
        )

    def warm(self) -> None:
        """For whoever is about to ask many times."""
        warm()

    async def check(self, view: View) -> Verdict:
        """On a running stream the new text and `CONTEXT` characters before it are judged, as one short text: what the
        whole text would get is known at the end."""
        if not self._actions:
            return Verdict(action="abstain", reason="the policy gives this layer no hazard to act on")
        text = view.recent(CONTEXT)
        if len(view.text) > MAX_CHARS:
            text = text[: max(0, MAX_CHARS - len(view.text) + len(text))]
        if not text or text.isspace():
            return Verdict(action="abstain", reason="nothing to read")
        return self._score(view, text) if len(text) < LONG else await asyncio.to_thread(self._score, view, text)

    def _score(self, view: View, text: str) -> Verdict:
        found = view.readings(CONTEXT) if len(view.text) <= MAX_CHARS else readings(text)
        return self._judge(self._model.most_harmful(found))

    def _judge(self, found: dict[str, float]) -> Verdict:
        harm = found.pop("harmful")
        hazard = max(self._actions, key=found.__getitem__)
        score = harm * found[hazard] / max(found.values())
        limit = self._config.per_hazard.get(hazard, self._config.threshold)
        action = self._actions[hazard] if score >= limit else "allow"
        reason = f"probability of harm {harm:.2f}, most like {max(found, key=found.__getitem__)}"
        return Verdict(action=action, score=score, threshold=limit, hazard=hazard, categories=found, reason=reason)


def _model(config: ClassifierConfig, name: str, base: Path) -> Linear:
    try:
        return load(EMBEDDED if config.model == "embedded" else (base / Path(config.model).expanduser()).resolve())
    except DataError as error:
        raise ConfigError([Problem(where=f"layer {name!r}: model", what=str(error))]) from None


def _valid(
    config: ClassifierConfig, name: str, phase: Phase | None, hazards: frozenset[str] | None, known: Sequence[str]
) -> None:
    found = []
    if phase is not None and phase not in PHASES:
        what = f"classifier works in {', '.join(PHASES)}, not {phase!r}"
        found.append(Problem(where=f"layer {name!r}: phase", what=what))
    for hazard in (*config.per_hazard, *sorted(hazards or ())):
        if hazard not in known:
            where = f"layer {name!r}: {'per_hazard' if hazard in config.per_hazard else 'hazards'}"
            what = f"this classifier does not know {hazard!r}{nearest(hazard, known)}"
            found.append(Problem(where=where, what=what))
    if found:
        raise ConfigError(found)
