"""What a key may spend in a day or a month of UTC, against what it has spent and reserved."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf

from alignstack.core.usage import Admitted, Allowance, BudgetSpent

DAY = 86_400
"""Seconds. Days of UTC are counted from 1970."""

UNLIMITED = 2**62
"""Tokens; what both databases can add to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The days that a request counts for: `day`, and all from `month`, the first of its month, to `last`."""

    day: int
    month: int
    last: int

    @classmethod
    def of(cls, at: float) -> "Span":
        day = int(at // DAY)
        date = datetime.fromtimestamp(day * DAY, UTC)
        month = day - date.day + 1
        next_month = (date.replace(day=1) + timedelta(days=32)).replace(day=1)
        return cls(day=day, month=month, last=int(next_month.timestamp()) // DAY - 1)

    def where(self, key: str) -> tuple[int, int, str, int, int]:
        """The values of `entries.SPENT`."""
        return self.day, self.day, key, self.month, self.last


def budgeted(allowance: Allowance) -> bool:
    """Is there anything to look up before a request is admitted?"""
    return not (allowance.tokens_per_day is allowance.usd_per_day is allowance.usd_per_month is None)


def limits(allowance: Allowance) -> tuple[int, float, float]:
    """Tokens a day, US dollars a day, US dollars a month, as numbers that a sum can be compared with."""
    tokens, day, month = allowance.tokens_per_day, allowance.usd_per_day, allowance.usd_per_month
    return UNLIMITED if tokens is None else tokens, inf if day is None else day, inf if month is None else month


def check(entry: Admitted, allowance: Allowance, spent: tuple[int, float, float]) -> None:
    """`spent`: tokens of the day, US dollars of the day and of the month, reservations among them. Raises BudgetSpent
    for the budget that is full again last."""
    span = Span.of(entry.at)
    tokens, day, month = limits(allowance)
    if spent[2] + entry.usd > month:
        raise BudgetSpent(_said(f"${month:g} a month", f"${month - spent[2]:.4f}"), float((span.last + 1) * DAY))
    if spent[1] + entry.usd > day:
        raise BudgetSpent(_said(f"${day:g} a day", f"${day - spent[1]:.4f}"), float((span.day + 1) * DAY))
    if spent[0] + entry.tokens > tokens:
        raise BudgetSpent(_said(f"{tokens} tokens a day", str(tokens - spent[0])), float((span.day + 1) * DAY))


def _said(budget: str, left: str) -> str:
    return f"the budget of {budget} does not cover this request; left of it: {left}"
