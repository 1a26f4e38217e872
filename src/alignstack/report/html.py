"""One HTML file: no network, no fonts, no libraries; plots are inline SVG made here.

What stops hostile text in it: `escape.visible` and autoescape on everything that is printed into it, and a content
security policy that allows exactly this page's style and script, by hash.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from alignstack.report import sentences, words
from alignstack.report.ask import Row
from alignstack.report.charts.causes import causes
from alignstack.report.charts.forest import forest
from alignstack.report.charts.overlap import overlap
from alignstack.report.charts.tradeoff import front, tradeoff
from alignstack.report.charts.waterfall import waterfall
from alignstack.report.document import failures
from alignstack.report.escape import visible
from alignstack.report.schema import Report

LISTED = 1000
"""Failures on the page; report.json has them all. Chosen by hand: about 1 MB."""


def render(report: Report, *, steps: Sequence[Row] = (), request: str = "") -> str:
    """The page. `steps` is the table of one request (`ask.rows`), shown first, with `request` as its caption."""
    environment, failed = _environment(), failures(report)
    style, script = environment.get_template("style.css").render(), environment.get_template("script.js").render()
    return environment.get_template("report.html.j2").render(
        report=report,
        steps=steps,
        request=request,
        failures=failed[:LISTED],
        failed=len(failed),
        words=words,
        sentences=sentences,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        plots=_plots(report),
        pairs=_pairs(report),
        best=front(report["configurations"]),
    )


def heat(value: float | None, ramp: str) -> str:
    """The class that shades a cell: eleven steps from 0 to 1; negative values are not shaded."""
    return "" if value is None else f"{ramp}{round(10 * min(max(value, 0.0), 1.0))}"


def pair(value: float | None) -> str:
    """The class of an interaction: one colour for redundant pairs, one for complementary ones, full at 20 points."""
    return "" if value is None else heat(min(1.0, 5 * abs(value)), "b" if value < 0 else "h")


def ticked(text: str) -> Markup:
    """Escaped, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


def _pairs(report: Report) -> dict[tuple[str, str], float]:
    """Interactions by (row, column), both ways round."""
    ways = [(one["layers"], one["safe"]) for one in report["interactions"]]
    return {(a, b): value for (first, second), value in ways for a, b in ((first, second), (second, first))}


def _plots(report: Report) -> SimpleNamespace:
    return SimpleNamespace(
        waterfall=waterfall(report),
        tradeoff=tradeoff(report),
        overlap=overlap(report),
        causes=causes(report),
        forest=forest(report),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alignstack.report"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plain = (
        words.percent,
        words.points,
        words.span,
        words.signed_span,
        words.rate,
        words.short_rate,
        words.seconds,
        words.plural,
    )
    environment.filters |= {function.__name__: function for function in (*plain, heat, pair, ticked)}
    return environment


def _shown(value: Any) -> Any:
    """Everything that the template prints and that is not markup goes through `visible`, then through autoescape."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
