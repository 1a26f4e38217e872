"""The command line: one file per command group, no logic. Heavy imports stand inside the commands, so that `--help`
answers at once."""

import os
import sys
from typing import Literal, TextIO

import click

from alignstack import __version__
from alignstack.cli import errors
from alignstack.cli.ask import ask
from alignstack.cli.attribute import attribute
from alignstack.cli.audit import audit
from alignstack.cli.classify import classify
from alignstack.cli.demo import demo
from alignstack.cli.keys import keys
from alignstack.cli.layers import layers
from alignstack.cli.lineage import lineage
from alignstack.cli.policy import policy
from alignstack.cli.schema import schema
from alignstack.cli.serve import serve
from alignstack.cli.stages import stages
from alignstack.cli.trace import trace
from alignstack.cli.train import train
from alignstack.cli.usage import usage
from alignstack.cli.why import why

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="alignstack", message="%(prog)s %(version)s")
def cli() -> None:
    """Build both halves of a deployed model's safety from one policy, measure every layer, trace every failure.

    Every option can also be given in the environment: --stack is ALIGNSTACK_STACK, or ALIGNSTACK_AUDIT_STACK for one
    command alone. Exit codes: 0 done or gate passed, 1 gate failed, 2 bad use or configuration, 3 could not finish.

    \b
    Example:
      alignstack demo
    """


for command in (
    demo, ask, serve, keys, usage, audit, attribute, why, train, stages, lineage, classify, policy, trace, layers,
    schema,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The entry point of the `alignstack` script."""
    sys.stdin = sys.stdin or _nothing("r")
    sys.stdout, sys.stderr = sys.stdout or _nothing("w"), sys.stderr or _nothing("w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(errors.run(cli, sys.argv[1:]))


def _nothing(mode: Literal["r", "w"]) -> TextIO:
    """In place of a stream that the caller closed."""
    return open(os.devnull, mode, encoding="utf-8")
