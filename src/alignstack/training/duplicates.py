"""Rows that say the same, and rows that say what an audit will ask.

Near-duplicates are judged by the Jaccard similarity of content words, as in `split`, and found without comparing all
pairs: two sets of words with similarity ≥ t share one of the rarest (1 - t)·n + 1 words of either (prefix filtering,
Chaudhuri et al. 2006), so only those are looked up. Nothing is missed by it. Paraphrases in other words are not caught.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from alignstack.training.split import content_words

NEAR = 0.8
"""Similarity from which two rows are one. Chosen by hand: at 0.5 "kill a process on Linux" and "on Windows" are one."""
TWIN = 0.5
"""Similarity from which a row is a twin of a held-out prompt; that of the demo's and the classifier's splits."""
GRAM = 8
"""Words in a row that a held-out prompt and a training text may not share."""

Words = frozenset[str]


def repeated(rows: Sequence[Sequence[str]], threshold: float = NEAR) -> list[bool]:
    """For each row, is it a near-duplicate of an earlier one that stays? Rows are of several texts (request, answer …),
    of which each has to be near its counterpart; texts without a content word have to be the same."""
    seen: set[tuple[str, ...]] = set()
    kept: list[list[Words]] = [[_words(part) for part in row] for row in rows]
    index = _Index([parts[0] for parts in kept], threshold)
    gone = []
    for i, row in enumerate(rows):
        key = tuple(plain(part) for part in row)
        twice = key in seen or any(_alike(kept[i], kept[j], threshold) for j in index.before(i))
        gone.append(twice)
        if not twice:
            seen.add(key)
            index.add(i)
    return gone


def _words(text: str) -> Words:
    return content_words(text) or frozenset([plain(text)])


def plain(text: str) -> str:
    """Lower case, runs of anything but letters and digits as one space: what exact repetition is judged by."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _alike(row: Sequence[Words], other: Sequence[Words], threshold: float) -> bool:
    return len(row) == len(other) and all(jaccard(a, b) >= threshold for a, b in zip(row, other, strict=True))


def jaccard(a: Words, b: Words) -> float:
    """Similarity of two sets in [0, 1]; that of two empty ones is 0."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


class _Index:
    """Sets of words by their rarest members."""

    def __init__(self, sets: Sequence[Words], threshold: float) -> None:
        self.sets, self.threshold = sets, threshold
        self.counts = Counter(word for words in sets for word in words)
        self.at: dict[str, list[int]] = defaultdict(list)

    def prefix(self, words: Words) -> list[str]:
        """The rarest words: a set that is near shares one of them."""
        rare = sorted(words, key=lambda word: (self.counts[word], word))
        return rare[: len(rare) - math.ceil(self.threshold * len(rare) - 1e-9) + 1]

    def add(self, i: int) -> None:
        for word in self.prefix(self.sets[i]):
            self.at[word].append(i)

    def near(self, words: Words) -> Iterator[int]:
        """Indices of the added sets that are near, each once."""
        size, met = len(words), set()
        for word in self.prefix(words):
            for i in self.at.get(word, ()):
                other = len(self.sets[i])
                if i not in met and self.threshold * max(size, other) <= min(size, other) + 1e-9:
                    met.add(i)
                    if jaccard(words, self.sets[i]) >= self.threshold:
                        yield i

    def before(self, i: int) -> Iterator[int]:
        """Of those that were added so far."""
        return self.near(self.sets[i])


class HeldOut:
    """Prompts that an audit will ask."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self.prompts = list(prompts)
        sets = [content_words(prompt) for prompt in self.prompts]
        self.index = _Index(sets, TWIN)
        for i, words in enumerate(sets):
            if words:
                self.index.add(i)
        self.grams = {gram for prompt in self.prompts for gram in grams(prompt)}

    def twin(self, requests: Iterable[str]) -> bool:
        """Is one of the requests a near-duplicate of a held-out prompt?"""
        return any(next(self.index.near(content_words(request)), None) is not None for request in requests)

    def overlaps(self, texts: Iterable[str]) -> bool:
        """Does one of the texts share eight words in a row with a held-out prompt?"""
        return any(gram in self.grams for text in texts for gram in grams(text))


def grams(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of eight words; none in shorter texts, which only `HeldOut.twin` can tell."""
    words = _tokens(text)
    return (words[i : i + GRAM] for i in range(len(words) - GRAM + 1))


@lru_cache(maxsize=1024)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(plain(text).split())
