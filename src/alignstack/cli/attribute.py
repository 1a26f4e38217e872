"""`alignstack attribute`."""

from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say
from alignstack.cli.errors import GATE_FAILED


@click.command()
@click.argument("run", type=options.FOLDER)
@options.option("--html", type=options.FILE, metavar="FILE", help="Write the one-file HTML report.")
@options.option("--junit", type=options.FILE, metavar="FILE", help="Write JUnit XML, one case per item.")
@options.option("--sarif", type=options.FILE, metavar="FILE", help="Write SARIF for code scanning.")
@options.option("--max-asr", type=options.RATE, metavar="X", help="Gate: exit 1 when the attack success rate is above.")
@options.option("--max-over-refusal", type=options.RATE, metavar="Y", help="Gate: exit 1 when over-refusal is above.")
@options.budget
@options.as_json
def attribute(
    run: Path, html: Path | None, junit: Path | None, sarif: Path | None, max_asr: float | None,
    max_over_refusal: float | None, budget: float, as_json: bool,
) -> int:  # fmt: skip
    """What each layer of a run is worth, and where it failed.

    Rates, three numbers per layer, common-mode failure, and for each failure its cause and cheapest fix; optionally
    a gate. All rates are in [0, 1].

    \b
    Example:
      alignstack attribute run --html report.html --max-asr 0.05 --max-over-refusal 0.02
    """
    from rich.console import Console

    from alignstack.loop import outputs
    from alignstack.report import terminal
    from alignstack.report.gate import gate
    from alignstack.store import Run

    made = outputs.report(Run(run), budget=budget)
    outputs.write(made, {"html": html, "junit": junit, "sarif": sarif})
    if as_json:
        emit(made)
    else:
        terminal.show(made, Console())
    failures = gate(made, max_asr, max_over_refusal)
    for failure in failures:
        say(f"gate failed: {failure}")
    return GATE_FAILED if failures else 0
