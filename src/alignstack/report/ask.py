"""One request down the stack, as the table `Layer · What happened · If it had failed`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table, as text."""

    layer: str
    happened: str
    if_failed: str
