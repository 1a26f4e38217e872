"""From measurements to tables.

Ratios are taken within one round, where the machine was equally busy for all; the median of the rounds counts, and the
range says how far to trust it.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from load import Measured, Scenario

Results = Mapping[tuple[str, str], Sequence[Measured]]
"""(Scenario, contestant): one measurement for each round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What alignstack is to reach."""

    scenario: str
    what: str
    than: str
    key: str = "rate"
    at_least: float | None = None
    """alignstack ÷ the other."""
    at_most_more: float | None = None
    """alignstack − the other, milliseconds."""

    def values(self, results: Results) -> list[float]:
        ours, others = results[self.scenario, "alignstack"], results[self.scenario, self.than]
        pairs = [(mine[self.key], other[self.key]) for mine, other in zip(ours, others, strict=True)]
        return [mine - other if self.at_least is None else mine / other for mine, other in pairs]

    def by_cpu(self, results: Results) -> str:
        """The other's CPU time for an answer ÷ alignstack's: how many times as much a full core would do. Moves less
        than the rate with what else the machine does."""
        if self.at_least is None:
            return ""
        ours, others = results[self.scenario, "alignstack"], results[self.scenario, self.than]
        pairs = zip(ours, others, strict=True)
        return figure(statistics.median(other["cpu_ms"] / mine["cpu_ms"] for mine, other in pairs))

    def reached(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most_more or 0)


BARS = (
    Bar(scenario="whole c32", what="answers/s ÷ LiteLLM's", than="litellm", at_least=20),
    Bar(scenario="whole c32", what="answers/s ÷ NeMo IORails'", than="nemo", at_least=2.5),
    Bar(scenario="whole c32", what="answers/s ÷ the floor's", than="floor", at_least=1 / 3),
    Bar(scenario="stream c32", what="streams/s ÷ NeMo IORails'", than="nemo", at_least=4),
    Bar(
        scenario="paced c32",
        what="ms to the first token, p50 − direct",
        than="direct",
        key="first_p50_ms",
        at_most_more=30,
    ),
    Bar(
        scenario="paced c32",
        what="ms to the first token, p99 − direct",
        than="direct",
        key="first_p99_ms",
        at_most_more=30,
    ),
)
COLUMNS = {
    False: {"rate": "answers/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    True: {
        "rate": "streams/s",
        "first_p50_ms": "first p50",
        "first_p99_ms": "first p99",
        "total_p50_ms": "total p50",
        "total_p99_ms": "total p99",
    },
}
COMMON = {"cpu_ms": "cpu ms", "rss_mb": "RSS MB", "bad": "bad"}


def tables(scenarios: Sequence[Scenario], names: Sequence[str], results: Results) -> str:
    return "\n\n".join(table(scenario, names, results) for scenario in scenarios)


def table(scenario: Scenario, names: Sequence[str], results: Results) -> str:
    """Medians of the rounds; the last columns say how alignstack's rate compares, per round, and its CPU time."""
    columns = {**COLUMNS[scenario.stream], **COMMON}
    ratio = ("alignstack ÷ this", "range", "by cpu") if "alignstack" in names else ()
    rows = [(scenario.name, *columns.values(), *ratio)]
    for name in names:
        rounds = results[scenario.name, name]
        cells = [figure(statistics.median(one[key] for one in rounds)) for key in columns]
        rate = Bar(scenario=scenario.name, what="", than=name, at_least=1)
        rows.append((name, *cells, *((*spread(rate.values(results)), rate.by_cpu(results)) if ratio else ())))
    return aligned(rows)


def bars(names: Sequence[str], results: Results) -> tuple[str, bool]:
    """A table, and whether every bar between contestants that ran was reached."""
    asked = [bar for bar in BARS if {bar.than, "alignstack"} <= set(names) and (bar.scenario, bar.than) in results]
    rows: list[Sequence[str]] = [("bar", "", "wanted", "median", "range", "by cpu", "")]
    reached = True
    for bar in asked:
        values = bar.values(results)
        good = bar.reached(statistics.median(values))
        reached &= good
        wanted = f"≥ {figure(bar.at_least)}" if bar.at_least is not None else f"≤ {figure(bar.at_most_more or 0)}"
        verdict = "reached" if good else "MISSED"
        rows.append((bar.scenario, bar.what, wanted, *spread(values), bar.by_cpu(results), verdict))
    return (aligned(rows) if asked else ""), reached


def spread(values: Sequence[float]) -> tuple[str, str]:
    return figure(statistics.median(values)), f"{figure(min(values))} to {figure(max(values))}"


def figure(value: float) -> str:
    """Three significant digits, no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
