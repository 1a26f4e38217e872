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
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from alignstack.core.errors import ConfigError, DataError, Problem, nearest
from alignstack.core.layer import LayerInfo, Phase, Scope, View
from alignstack.core.messages import digest
from alignstack.core.normalise import readings
from alignstack.core.verdict import Action, Verdict
from alignstack.policy import Policy

PHASES: tuple[Phase, ...] = ("request", "tool_call", "tool_result", "output")
EMBEDDED = Path(__file__).parent / "assets" / "classifier.npz"
MAX_CHARS = 65_536
"""Characters judged; what follows is out of scope."""
FORMAT = 2
"""Of the weights file; raised whenever the features change, since old weights mean nothing to new features."""
LONG = 20_000
"""Characters from which scoring runs in a thread, so that other requests are served meanwhile."""

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
_BASE = np.uint32(0x01000193)
_POWERS = np.cumprod(np.full(64, 0x9E3779B1, np.uint32), dtype=np.uint32)
_SALT = {3: 0x85EBCA6B, 4: 0xC2B2AE35, 5: 0x27D4EB2F, "w1": 0x165667B1, "w2": 0x9E3779B1, "w3": 0xD3A2646D}


def features(text: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Distinct buckets of the word 1- to 3-grams, and of the 3- to 5-letter runs that do not cross a space.

    Case, punctuation and the value of digits do not count. Both arrays are empty for a text without letters and digits.
    """
    raw = np.frombuffer(f" {text.lower()} ".encode(errors="replace"), np.uint8)
    codes = _CODES[raw]
    between = codes == 0
    keep = np.ones(len(codes), bool)
    np.logical_not(between[1:] & between[:-1], out=keep[1:])
    codes, between = codes[keep], between[keep]
    if len(codes) < 3:
        empty = np.empty(0, np.intp)
        return empty, empty
    return _words(codes, between), _letters(codes, between)


def _words(codes: NDArray[np.uint32], between: NDArray[np.bool_]) -> NDArray[np.intp]:
    gaps = np.flatnonzero(between)
    starts = gaps[:-1] + 1
    place = np.arange(len(codes)) - np.repeat(np.r_[0, starts], np.diff(np.r_[0, starts, len(codes)]))
    one = np.add.reduceat(codes * _POWERS[np.minimum(place, 63)], starts, dtype=np.uint32)
    two = one[:-1] * _BASE + one[1:]
    three = two[:-1] * _BASE + one[2:]
    return _buckets((one, "w1"), (two, "w2"), (three, "w3"))


def _letters(codes: NDArray[np.uint32], between: NDArray[np.bool_]) -> NDArray[np.intp]:
    three = (codes[:-2] * _BASE + codes[1:-1]) * _BASE + codes[2:]
    four = three[:-1] * _BASE + codes[3:]
    five = four[:-1] * _BASE + codes[4:]
    in3 = ~between[1:-1]
    in4 = in3[:-1] & in3[1:]
    in5 = in4[:-1] & in3[2:]
    return _buckets((three[in3], 3), (four[in4], 4), (five[in5], 5))


def _buckets(*grams: tuple[NDArray[np.uint32], int | str]) -> NDArray[np.intp]:
    mixed = [(hashes ^ (hashes >> np.uint32(15))) * np.uint32(_SALT[kind]) for hashes, kind in grams]
    found = np.concatenate(mixed) >> np.uint32(32 - BITS)
    found.sort()
    return found[np.r_[True, found[1:] != found[:-1]]].astype(np.intp)


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

    def logits(self, text: str) -> NDArray[np.float64]:
        """[labels], before calibration, for one text exactly as given."""
        total = self.bias.astype(np.float64)
        for buckets in features(text):
            if len(buckets):
                length = np.sqrt(len(buckets))
                total[0] += self.harm[buckets].sum(dtype=np.int32) * self.scale[0] / length
                summed = self.hazards[buckets >> (BITS - HAZARD_BITS)].sum(axis=0, dtype=np.int32)
                total[1:] += summed * self.scale[1:] / length
        return total

    def probabilities(self, text: str) -> NDArray[np.float64]:
        """[labels], each in (0, 1), for one text exactly as given."""
        return 1 / (1 + np.exp(-(self.logits(text) * self.calibration[:, 0] + self.calibration[:, 1])))

    def score(self, text: str) -> dict[str, float]:
        """Probability per label, of the reading of `text` that is most likely harmful."""
        best = max((self._most_harmful(reading) for reading in readings(text[:MAX_CHARS])), key=_harm)
        return dict(zip(self.labels, best.tolist(), strict=True))

    def _most_harmful(self, text: str) -> NDArray[np.float64]:
        """Of the whole text and, in a long one, of each sentence, which has to be more certain by `PART_MARGIN`."""
        whole = self.probabilities(text)
        if len(text) < LONG_TEXT:
            return whole
        return max((whole, *(self._part(part) for part in PART.findall(text))), key=_harm)

    def _part(self, text: str) -> NDArray[np.float64]:
        found = self.probabilities(text)
        found[0] = found[0] / (found[0] + (1 - found[0]) * np.exp(PART_MARGIN))
        return found


def _harm(probabilities: NDArray[np.float64]) -> float:
    return float(probabilities[0])


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
        )

    async def check(self, view: View) -> Verdict:
        if not self._actions:
            return Verdict(action="abstain", reason="the policy gives this layer no hazard to act on")
        if not view.text.strip():
            return Verdict(action="abstain", reason="nothing to read")
        if len(view.text) < LONG:
            return self._judge(self._model.score(view.text))
        return self._judge(await asyncio.to_thread(self._model.score, view.text))

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
