"""The demo: the phishing example down the built-in stack, then an audit of it on the package's prompts."""

from pathlib import Path

from alignstack.core.ports import Clock
from alignstack.engine.stack import Stack
from alignstack.redteam import suites
from alignstack.redteam.audit import Progress, audit, manifest
from alignstack.redteam.plan import plan
from alignstack.store.runs import Run

ATTACKS = ("role_play", "base64", "leetspeak", "prefix_injection", "past_tense")
"""Every other harmful prompt is asked under one of these, in turn; the others as they are."""


async def measure(stack: Stack, out: Path, *, limit: int | None, clock: Clock, progress: Progress) -> Run:
    """The audit, in a folder under `out` named after all that makes it: a demo that was interrupted goes on, one that
    was finished is not repeated, and one of another version starts anew."""
    items = suites.limit(suites.demo(), limit) if limit else suites.demo()
    rows = suites.demo_rows()
    planned = plan(items, ATTACKS, rotate=True)
    made = manifest(stack, rows, ("none", *ATTACKS), draws=1, seed=0, items=len(planned))
    return await audit(
        stack, items, out=out / f"run-{made.run[:8]}", clock=clock, attacks=ATTACKS, rotate=True, suites=rows,
        resume=True, progress=progress,
    )  # fmt: skip
