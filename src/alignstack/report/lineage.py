"""A lineage as a tree on a terminal: each stage under the one it started from."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from alignstack.report.escape import cell
from alignstack.report.terminal import HEAD, QUIET, WIDEST
from alignstack.training.lineage import Stage

SHORT = 12
"""Digits of a hash."""


def show(stages: Sequence[Stage], console: Console) -> None:
    """`stages`: oldest first."""
    console.print(tree(stages), width=min(console.width, WIDEST))


def tree(stages: Sequence[Stage]) -> Tree:
    root = branch = Tree(_head(stages[0]))
    _facts(branch, stages[0])
    for stage in stages[1:]:
        branch = branch.add(_head(stage))
        _facts(branch, stage)
    return root


def _head(stage: Stage) -> Text:
    return Text.assemble(
        cell(stage.stage, HEAD, 40), "  ", cell(stage.method, limit=40), "  ", (_short(stage.weights), QUIET)
    )


def _facts(branch: Tree, stage: Stage) -> None:
    for name, text in facts(stage):
        branch.add(Text.assemble((f"{name} ", QUIET), cell(text, limit=400)))


def facts(stage: Stage) -> Iterator[tuple[str, str]]:
    """What is known of a stage, name and text, in the order in which it is shown."""
    if stage.ancestors:
        yield "before", " → ".join(_short(weights) for weights in stage.ancestors)
    if stage.data:
        yield "data", ", ".join(f"{name} {_short(sha)}" for name, sha in stage.data.items())
    if stage.rows:
        yield "rows", _short(stage.rows)
    if stage.uses:
        yield "uses", ", ".join(f"{name} {_short(sha)}" for name, sha in stage.uses.items())
    if stage.policy:
        yield "policy", _short(stage.policy)
    yield "trained", _effort(stage)
    if stage.stopped:
        yield "stopped", stage.stopped
    if stage.measured:
        yield "measured", ", ".join(f"{name} {value:.4g}" for name, value in stage.measured.items())
    if stage.libraries:
        yield "with", ", ".join(f"{name} {version}" for name, version in stage.libraries.items())
    if stage.machine:
        yield "on", stage.machine


def _effort(stage: Stage) -> str:
    steps = f"{stage.steps:,} steps, " if stage.steps else ""
    return f"seed {stage.seed}, {steps}{stage.tokens:,} tokens, {stage.seconds / 60:.1f} minutes"


def _short(sha: str) -> str:
    return sha[:SHORT]
