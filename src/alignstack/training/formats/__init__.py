"""Formats of training data, one file each; `detect` names the one that a row has."""

from alignstack.core.errors import nearest
from alignstack.training.formats import alpaca, beavertails, hh_rlhf, suite, trl, ultrafeedback
from alignstack.training.formats.example import Example, Format, Kind, Raw, Skip, Turn, Wrong

FORMATS: dict[str, Format] = {
    "suite": suite,
    "beavertails": beavertails,
    "beavertails-helpful": beavertails.Helpful(),
    "ultrafeedback": ultrafeedback,
    "alpaca": alpaca,
    "hh-rlhf": hh_rlhf,
    "trl": trl,
}
"""Name → module; the first that matches is taken."""

__all__ = ["FORMATS", "Example", "Format", "Kind", "Raw", "Skip", "Turn", "Wrong", "detect"]


def detect(row: Raw) -> str:
    """The name of the row's format. Raises Wrong with the nearest valid key."""
    for name, form in FORMATS.items():
        if form.matches(row):
            return name
    valid = sorted({key for form in FORMATS.values() for key in form.KEYS})
    hints = [f"{key!r}{near}" for key in row if "did you mean" in (near := nearest(str(key), set(valid) - set(row)))]
    raise Wrong(f"fits no known format ({', '.join(FORMATS)}): {'; '.join(hints[:3]) or _keys(row)}")


def _keys(row: Raw) -> str:
    return f"its keys are {', '.join(repr(str(key)[:20]) for key in list(row)[:8])}" if row else "it is empty"
