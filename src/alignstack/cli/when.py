"""Points in time as people type them and read them."""

import re
import time
from datetime import datetime

import click

UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
"""Seconds."""


def when(text: str) -> float:
    """`30m`, `24h` or `7d` ago, or a date or time in ISO 8601, of this machine's time zone unless it names one. Seconds
    since 1970. The `type` of an option."""
    ago = re.fullmatch(r"(\d{1,6})([mhd])", text)
    try:
        return time.time() - int(ago[1]) * UNITS[ago[2]] if ago else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{text!r} is neither like 30m, 24h or 7d nor a date like 2026-11-25.") from None


def shown(at: float) -> str:
    """In this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
