"""Elements: everything that is not already markup is escaped, so no text of a report becomes a tag or goes unseen."""

import math

from markupsafe import Markup, escape

from alignstack.report.escape import visible

CHAR = 6.6
"""Width of an average character of the 12 px labels, in px: what label placement reckons with."""


def el(tag: str, *children: str, **attributes: object) -> Markup:
    """One element; `class_` stands for `class`, other underscores for hyphens; floats are rounded to 0.1 px."""
    pairs = [Markup(' {}="{}"').format(_name(key), _value(value)) for key, value in attributes.items()]
    return Markup("<{0}{1}>{2}</{0}>").format(
        Markup(tag), Markup("").join(pairs), Markup("").join(map(_shown, children))
    )


def figure(width: float, height: float, title: str, *children: str) -> Markup:
    """A plot that shrinks with its column (never grows) and is one image, named `title`, to a screen reader."""
    box = f"0 0 {width:.0f} {height:.0f}"
    name = el("title", title)
    return el("svg", name, *children, viewBox=box, width=round(width), role="img", aria_label=title, class_="plot")


def text(x: float, y: float, content: str, class_: str = "label", **attributes: object) -> Markup:
    return el("text", content, x=x, y=y, class_=class_, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def bar(x: float, y: float, width: float, height: float, class_: str, tip: str = "") -> Markup:
    """A filled rectangle, at least a hairline wide."""
    return el("rect", *tips(tip), x=x, y=y, width=max(width, 0.5), height=height, rx=2, class_=class_)


def dot(x: float, y: float, radius: float, class_: str, tip: str = "") -> Markup:
    return el("circle", *tips(tip), cx=x, cy=y, r=radius, class_=class_)


def tips(tip: str) -> list[Markup]:
    return [el("title", tip)] if tip else []


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to the first one at or above `top`, about `count` of them (steps of 1, 2 or 5)."""
    raw = max(top, 1e-6) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    return [round(step * index, 10) for index in range(math.ceil(top / step - 1e-9) + 1)]


def _name(key: str) -> str:
    return key if key == "viewBox" else key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else _shown(str(value))


def _shown(text: str) -> Markup:
    return text if isinstance(text, Markup) else escape(visible(text))
