"""Soft labels: pairs of which it is not certain which answer is the better one.

The loss of a pair whose first answer wins with probability p is p x loss(as it stands) + (1 - p) x loss(turned round):
Bradley–Terry and DPO are linear in the label. A row with `confidence` therefore enters several times, in both
orientations in that proportion, and no trainer has to know about it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def soften(rows: Sequence[Mapping[str, Any]], copies: int = 4) -> list[dict[str, Any]]:
    """Rows with `confidence`, the probability in [0, 1] that `chosen` is the better answer, as copies in both
    orientations, p to the nearest 1/`copies`. All rows keep the same weight: those without `confidence` are repeated as
    they stand. As few copies as the proportions allow; none where all labels are certain."""
    shares = [round(copies * row.get("confidence", 1.0)) for row in rows]
    step = math.gcd(copies, *shares)
    copied = [_both(row, share // step, copies // step) for row, share in zip(rows, shares, strict=True)]
    return [row for both in copied for row in both]


def _both(row: Mapping[str, Any], as_it_stands: int, copies: int) -> Iterable[dict[str, Any]]:
    return [dict(row)] * as_it_stands + [turned(row)] * (copies - as_it_stands)


def turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same judgement with the answers in the other order: what was certain by p is now by 1 - p, and a margin
    changes its sign, since 1 - sigmoid(r - m) = sigmoid(m - r)."""
    other = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    if "confidence" in row:
        other["confidence"] = 1 - row["confidence"]
    if "margin" in row:
        other["margin"] = -row["margin"]
    return other
