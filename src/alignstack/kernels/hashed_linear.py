"""The scores of `alignstack.layers.classifier` in one pass over the bytes of a text: a tenth of numpy's time on short
texts, where numpy's own calls cost more than their work.

Compiled when first called, a second or two; kept on disk where there is a place for it.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

os.environ.setdefault("NUMBA_CACHE_DIR", user_cache_dir("alignstack"))

import numba

U = np.uint64
"""Everything is reckoned in 64 bits and cut to 32 as numpy's 32-bit arrays do by themselves. Places that count are
unsigned too: of signed ones the compiled code asks each time whether they are negative, at thrice the time."""
LOW, BUCKET, LETTERS = U(2**32 - 1), U(2**20 - 1), U(2**20)
BASE, FACTOR, SPREAD = U(0x01000193), U(0x9E3779B1), U(2654435761)
LETTER_SALTS = (U(0x85EBCA6B), U(0xC2B2AE35), U(0x27D4EB2F))
WORD_SALTS = (U(0x165667B1), U(0x9E3779B1), U(0xD3A2646D))
STAMP, STAMPS = U(21), 2047
"""Bits of a feature, and what the other 11 of 32 can tell apart."""
MAX_PLACE = 64
END = 0x1F
"""Ends a piece."""
AT_MOST = 6
"""Features made at one letter: three runs of letters, three of words. A word has a space behind it, so that a text has
at most three for each byte."""


def _compiled(function: Any) -> Any:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written to
        return numba.njit(nogil=True)(function)


@_compiled
def _bucket(gram: Any, salt: Any) -> Any:
    return (((gram ^ (gram >> U(15))) * salt) & LOW) >> U(12)


@_compiled
def _letter_features(letters: Any, i: Any, found: Any) -> int:
    """The runs of 3, 4 and 5 letters whose second letter stands at `i`. Returns how many."""
    gram = ((letters[i - U(1)] * BASE + letters[i]) * BASE + letters[i + U(1)]) & LOW
    found[0] = _bucket(gram, LETTER_SALTS[0]) | LETTERS
    if letters[i + U(1)] == U(0):
        return 1
    gram = (gram * BASE + letters[i + U(2)]) & LOW
    found[1] = _bucket(gram, LETTER_SALTS[1]) | LETTERS
    if letters[i + U(2)] == U(0):
        return 2
    gram = (gram * BASE + letters[i + U(3)]) & LOW
    found[2] = _bucket(gram, LETTER_SALTS[2]) | LETTERS
    return 3


@_compiled
def _word_features(words: int, two: Any, one: Any, word: Any, made: int, found: Any) -> int:
    """The runs of 1, 2 and 3 words that end with `word`, the hash of the last of so many; `one` is the word before it,
    `two` the hash of the two before it. Returns how many features there are now."""
    found[made] = _bucket(word, WORD_SALTS[0])
    if words > 1:
        found[made + 1] = _bucket((one * BASE + word) & LOW, WORD_SALTS[1])
    if words > 2:
        found[made + 2] = _bucket((two * BASE + word) & LOW, WORD_SALTS[2])
    return made + min(words, 3)


@_compiled
def _is_new(feature: Any, stamp: Any, seen: Any, shift: Any) -> bool:
    """Puts a feature into the set `seen`, whose size is a power of two and twice what it will hold. Entries of another
    stamp, left by pieces before, count as empty: cleaning up for each piece would cost more than all else."""
    key = np.uint32(feature | (stamp << STAMP))
    slot = ((feature * SPREAD) & LOW) >> shift
    while U(seen[slot]) >> STAMP == stamp:
        if seen[slot] == key:
            return False
        slot = (slot + U(1)) & U(len(seen) - 1)
    seen[slot] = key
    return True


@_compiled
def _features(letters: Any, start: int, end: int, stamp: Any, seen: Any, shift: Any, keys: Any) -> int:
    """Fills `keys` with the distinct features of a piece. Returns how many."""
    found = np.empty(AT_MOST, np.uint64)
    count = words = place = 0
    power = word = one = two = U(0)
    for i in range(start, end):
        code = letters[U(i)]
        if code == U(0):
            continue
        place += 1
        power = FACTOR if place == 1 else ((power * FACTOR) & LOW if place <= MAX_PLACE else power)
        word = (word + code * power) & LOW
        made = _letter_features(letters, U(i), found)
        if letters[U(i) + U(1)] == U(0):  # the word is complete
            words += 1
            made = _word_features(words, two, one, word, made, found)
            two, one, word, place = (one * BASE + word) & LOW, word, U(0), 0
        for j in range(made):
            if _is_new(found[j], stamp, seen, shift):
                keys[count] = found[j]
                count += 1
    return count


@_compiled
def _harm(keys: Any, count: int, harm: Any) -> tuple[float, int]:
    """Sum of the weights, each kind of feature by the root of its number; and how many are of letters."""
    of_words = of_letters = letters = 0
    for i in range(count):
        weight = harm[U(keys[i]) & BUCKET]
        if U(keys[i]) >= LETTERS:
            of_letters += weight
            letters += 1
        else:
            of_words += weight
    return of_words / np.sqrt(max(count - letters, 1)) + of_letters / np.sqrt(max(letters, 1)), letters


@_compiled
def _hazards(keys: Any, count: int, letters: int, hazards: Any, slopes: Any, offsets: Any, result: Any) -> None:
    """Fills `result` from 1 on with the log-odds per hazard of a piece."""
    sums = np.zeros((2, len(slopes) - 1), np.int64)
    for i in range(count):
        kind, row = (1 if U(keys[i]) >= LETTERS else 0), (U(keys[i]) & BUCKET) >> U(2)
        for j in range(sums.shape[1]):
            sums[kind, j] += hazards[row, j]
    for j in range(sums.shape[1]):
        total = sums[0, j] / np.sqrt(max(count - letters, 1)) + sums[1, j] / np.sqrt(max(letters, 1))
        result[j + 1] = total * slopes[j + 1] + offsets[j + 1]


@_compiled
def _longest(raw: Any) -> int:
    """Bytes of the longest piece."""
    longest = length = 0
    for byte in raw:
        length = 0 if byte == END else length + 1
        longest = max(longest, length)
    return longest


@_compiled
def most_harmful(
    raw: NDArray[np.uint8],
    codes: NDArray[np.uint32],
    margins: NDArray[np.float64],
    harm: NDArray[np.int8],
    hazards: NDArray[np.int8],
    slopes: NDArray[np.float64],
    offsets: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[labels]: probabilities of the piece of `raw` whose log-odds of harm, less its margin, are highest. Arguments as
    `Linear` has them; pieces end at a 0x1F, and there is a margin for each. A space stands on both sides of each, and
    three more at the end, so that what is read before and behind a letter is there."""
    n, longest, bits = len(raw), _longest(raw), 6
    while (1 << bits) < AT_MOST * longest:
        bits += 1
    seen, shift = np.zeros(1 << bits, np.uint32), U(32 - bits)
    keys, best_keys = np.empty(1 << bits, np.uint32), np.empty(1 << bits, np.uint32)
    letters = np.empty(n, np.uint64)
    for i in range(n):
        letters[i] = codes[raw[i]]
    result = np.empty(len(slopes), np.float64)
    result[0], best_count, best_letters = -np.inf, 0, 0
    start = 0
    for piece in range(len(margins)):
        end = start
        while end < n and raw[end] != END:
            end += 1
        if piece % STAMPS == 0:
            seen[:] = 0
        count = _features(letters, start, end, U(piece % STAMPS + 1), seen, shift, keys)
        total, of_letters = _harm(keys, count, harm)
        logit = total * slopes[0] + (offsets[0] - margins[piece])
        if logit > result[0]:
            result[0], best_count, best_letters = logit, count, of_letters
            keys, best_keys = best_keys, keys
        start = end + 1
    _hazards(best_keys, best_count, best_letters, hazards, slopes, offsets, result)
    return 1 / (1 + np.exp(np.minimum(-result, 700.0)))
