"""Near-duplicate groups, so that a held-out prompt has no twin in the training data.

Two texts are near-duplicates when the Jaccard similarity of their content-word sets reaches a threshold.
Paraphrases with other words are not caught; nothing here pretends otherwise.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can could did do does
    doing for from get give had has have he her him his how i if in into is it its just like make me more most my
    no not of on one only or other our out over please she should so some such tell than that the their them then
    there these they this to up us use was way ways we were what when where which who why will with would you
    your""".split()  # the words that carry no topic; chosen by hand
)


def content_words(text: str) -> frozenset[str]:
    """Lower-case words of `text` without stop words."""
    return frozenset(re.findall(r"[a-z0-9']+", text.lower())) - STOP_WORDS


def neighbours(texts: Sequence[str], others: Sequence[str], threshold: float = 0.5) -> list[list[int]]:
    """For each text, the indices in `others` whose word sets have Jaccard similarity ≥ `threshold` in [0, 1]."""
    index: dict[str, list[int]] = defaultdict(list)
    sets = [content_words(other) for other in others]
    for i, words in enumerate(sets):
        for word in words:
            index[word].append(i)
    return [_matches(content_words(text), sets, index, threshold) for text in texts]


def _matches(
    words: frozenset[str], sets: Sequence[frozenset[str]], index: dict[str, list[int]], threshold: float
) -> list[int]:
    shared: dict[int, int] = defaultdict(int)
    for word in words:
        for i in index.get(word, ()):
            shared[i] += 1
    return sorted(i for i, n in shared.items() if n / (len(words) + len(sets[i]) - n) >= threshold)


def clusters(texts: Sequence[str], threshold: float = 0.5) -> list[int]:
    """One cluster number a text: connected components of the near-duplicate graph (the smallest index names it)."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, found in enumerate(neighbours(texts, texts, threshold)):
        for j in found:
            a, b = root(i), root(j)
            parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(texts))]


def without_twins(rows: Iterable[dict], held_out: Sequence[str], threshold: float = 0.5) -> list[dict]:
    """The rows (with a `text` field) that are no near-duplicate of any held-out text."""
    rows = list(rows)
    found = neighbours([row["text"] for row in rows], held_out, threshold)
    return [row for row, twins in zip(rows, found, strict=True) if not twins]


def fraction(key: str, salt: str = "") -> float:
    """A stable number in [0, 1) from a name: rows are assigned to splits by it, whatever their order."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") / 2**64
