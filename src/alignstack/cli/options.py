"""Options that commands share, and the rule that every option can come from the environment.

`--limit` of `alignstack trace ls` is `ALIGNSTACK_TRACE_LS_LIMIT`, else `ALIGNSTACK_LIMIT`; what is typed wins.
"""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import click

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
LABEL = click.Choice(["harmful", "benign"])


class Rate(click.FloatRange):
    """A share in [0, 1]. `nan` compares as being in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


RATE = Rate(0.0, 1.0)


class Option(click.Option):
    """An option that also reads `ALIGNSTACK_<COMMAND>_<OPTION>` and `ALIGNSTACK_<OPTION>`, in this order."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        flag = max(self.opts, key=len).lstrip("-")
        names = (_variable(ctx.command_path, flag), _variable("alignstack", flag))
        return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _variable(*words: str) -> str:
    return " ".join(words).replace("-", "_").replace(" ", "_").upper()


option = partial(click.option, cls=Option)

as_json = option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else there.")
stack = option("--stack", "stack_file", type=FILE, metavar="FILE", help="A stack file; the built-in stack otherwise.")
seed = option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
limit = option("--limit", type=click.IntRange(1), metavar="N", help="At most N harmful and N benign prompts.")
BUDGET = 0.02
"""Share of benign requests that a threshold fix may cost unless the user says otherwise; chosen by hand."""
budget = option(
    "--budget", type=RATE, default=BUDGET, show_default=True, metavar="B", help="Extra benign refusals a fix may cost."
)
