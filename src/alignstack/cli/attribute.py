"""`alignstack attribute`."""

from pathlib import Path

import click

from alignstack.cli import options


@click.command()
@click.argument("run", type=options.FOLDER)
@options.option("--html", type=options.FILE, metavar="FILE", help="Write the one-file HTML report.")
@options.option("--junit", type=options.FILE, metavar="FILE", help="Write JUnit XML, one case per item.")
@options.option("--sarif", type=options.FILE, metavar="FILE", help="Write SARIF for code scanning.")
@options.option("--max-asr", type=options.RATE, metavar="X", help="Gate: exit 1 when the attack success rate is above.")
@options.option(
    "--max-over-refusal", type=options.RATE, metavar="Y", help="Gate: exit 1 when benign refusals are above."
)
@options.option(
    "--budget",
    type=options.RATE,
    default=0.02,
    show_default=True,
    help="Extra benign refusals a threshold fix may cost.",
)
@options.as_json
@click.pass_context
def attribute(
    ctx: click.Context, run: Path, html: Path | None, junit: Path | None, sarif: Path | None, max_asr: float | None,
    max_over_refusal: float | None, budget: float, as_json: bool,
) -> None:  # fmt: skip
    """What each layer of a run is worth, and where it failed.

    Rates, three numbers per layer, common-mode failure, and for each failure its cause and cheapest fix; optionally
    a gate.

    \b
    Example:
      alignstack attribute run --html report.html --max-asr 0.05 --max-over-refusal 0.02
    """
    raise NotImplementedError
