"""The rows of the ledger, and the questions asked of them, in the SQL that sqlite and PostgreSQL share."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Literal

from alignstack.core.usage import Admitted, Allowance, Settled, Used
from alignstack.store.budgets import Span, limits

Row = tuple[Any, ...]
Group = Literal["key", "day"]

ADMITTED = tuple(field.name for field in fields(Admitted))
SETTLED = tuple(field.name for field in fields(Settled))
admitted_row: Callable[[Admitted], Row] = attrgetter(*ADMITTED)
settled_row: Callable[[Settled], Row] = attrgetter(*SETTLED)

ONCE = "ON CONFLICT (id, event) DO NOTHING"
THERE = "SELECT 1 FROM ledger WHERE id = ? AND event = 'admitted'"

SPENT = """
SELECT coalesce(sum(tokens) FILTER (WHERE day = ?), 0) AS tokens,
  coalesce(sum(usd) FILTER (WHERE day = ?), 0) AS usd_day, coalesce(sum(usd), 0) AS usd_month
FROM spent WHERE key = ? AND day BETWEEN ? AND ?
"""
"""At most 31 rows of the primary key. Values: `budgets.Span.where`."""

RESERVE = f"""
INSERT INTO ledger (event, {", ".join(ADMITTED)})
SELECT 'admitted', {", ".join("?" * len(ADMITTED))} FROM ({SPENT}) AS spent
WHERE spent.tokens + ? <= ? AND usd_day + ? <= ? AND usd_month + ? <= ? {ONCE}
"""
"""Decision and reservation in one statement: in sqlite exact by itself, whoever else writes. Values: `reserve_row`."""

BOTH = """
FROM ledger a LEFT JOIN ledger s ON s.id = a.id AND s.event = 'settled' WHERE a.event = 'admitted'
"""

RECENT = f"""
SELECT a.at, coalesce(s.status, ''), coalesce(s.layer, ''), coalesce(s.hazard, ''),
  coalesce(s.input_tokens + s.output_tokens, 0)
{BOTH} AND a.key = ? AND a.at >= ? ORDER BY a.at DESC, a.id DESC LIMIT ?
"""

ENTRIES = f"""
SELECT event, {", ".join(ADMITTED)}, {", ".join(name for name in SETTLED if name not in ADMITTED)}
FROM ledger WHERE at >= ? AND at < ? ORDER BY at, event, id
"""


def reserve_row(entry: Admitted, allowance: Allowance) -> Row:
    tokens, day, month = limits(allowance)
    bounds = (entry.tokens, tokens, entry.usd, day, entry.usd, month)
    return (*admitted_row(entry), *Span.of(entry.at).where(entry.key), *bounds)


def usage(line: str) -> str:
    """One row for each value of `line`. Values: since, until, and twice the one key, or None for all."""
    return f"""
    SELECT {line} AS line, count(*), count(*) FILTER (WHERE s.status = 'delivered'),
      count(*) FILTER (WHERE s.status = 'refused'), count(*) FILTER (WHERE s.status IN ('blocked', 'cut')),
      count(*) FILTER (WHERE s.status IS NULL OR s.status IN ('unavailable', 'abandoned')),
      coalesce(sum(s.input_tokens), 0), coalesce(sum(s.output_tokens), 0), coalesce(sum(s.usd), 0),
      count(DISTINCT nullif(a.person, ''))
    {BOTH} AND a.at >= ? AND a.at < ? AND (CAST(? AS text) IS NULL OR a.key = ?)
    GROUP BY line ORDER BY line
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """How one request of a key ended: where signs of abuse are looked for."""

    at: float
    """Seconds since 1970, when it was admitted."""
    status: str
    """`core.usage.Status`, or empty while it is under way."""
    layer: str
    hazard: str
    tokens: int


def recent(row: Row) -> Recent:
    at, status, layer, hazard, tokens = row
    return Recent(at=at, status=status, layer=layer, hazard=hazard, tokens=tokens)


def used(row: Row) -> Used:
    key, requests, delivered, refused, blocked, failed, input_tokens, output_tokens, usd, people = row
    return Used(
        key=key, requests=requests, delivered=delivered, refused=refused, blocked=blocked, failed=failed,
        input_tokens=int(input_tokens), output_tokens=int(output_tokens), usd=float(usd), people=people,
    )  # fmt: skip


def entry(row: Row) -> Admitted | Settled:
    values = dict(zip((*ADMITTED, *(name for name in SETTLED if name not in ADMITTED)), row[1:], strict=True))
    if row[0] == "admitted":
        return Admitted(**{name: values[name] for name in ADMITTED})
    return Settled(**{name: values[name] for name in SETTLED})


def storable(entry: Admitted) -> Admitted:
    """`model` is what the client wrote, and may hold what no database does."""
    if entry.model.isprintable():
        return entry
    return replace(entry, model=entry.model.encode("utf-8", "replace").decode().replace("\x00", "?"))
