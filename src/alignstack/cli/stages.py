"""`alignstack stages`."""

import asyncio
import contextlib
import sys
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.audit import split
from alignstack.cli.console import emit, progress


@click.command()
@click.argument("run", type=options.FOLDER)
@options.option(
    "--checkpoint", type=options.FOLDER, metavar="FOLDER",
    help="The checkpoint whose weights the run's model has, where its stack does not say.",
)  # fmt: skip
@options.option("--stages", "only", multiple=True, metavar="A,B…", help="These stages only; commas, or repeated.")
@options.option(
    "--suite", "suites", type=options.FILE, multiple=True, metavar="FILE",
    help="A suite of the run, for its requests of several turns; repeatable.",
)  # fmt: skip
@options.option(
    "--limit", type=click.IntRange(1), metavar="N",
    help="At most N harmful and N benign requests, and every failure besides.",
)  # fmt: skip
@options.option("--scores", is_flag=True, help="Also how much the weights would rather refuse (needs `train`).")
@options.option(
    "--examples", type=click.IntRange(1), metavar="N",
    help="Also the N training examples that pull hardest toward the failures of their stage (needs `train`).",
)  # fmt: skip
@options.option("--html", type=options.FILE, metavar="FILE", help="Write what is shown as one HTML file.")
@options.option("--concurrency", type=click.IntRange(1), metavar="N", help="Requests under way at once.")
@options.as_json
def stages(
    run: Path, checkpoint: Path | None, only: tuple[str, ...], suites: tuple[Path, ...], limit: int | None,
    scores: bool, examples: int | None, html: Path | None, concurrency: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Which training stage fixed or introduced each failure.

    Asks every stage of the model's lineage what the audit RUN asked, behind the same guards. Killed and repeated, it
    goes on; what is known already is not asked again.

    \b
    Example:
      alignstack stages run --limit 50
    """
    from rich.console import Console

    from alignstack.loop.outputs import save
    from alignstack.loop.stages import described, replay
    from alignstack.report import stages as report
    from alignstack.store.clock import SystemClock

    if scores or examples:
        from alignstack.cli.train import LIBRARIES, needs_extra

        needs_extra(*LIBRARIES)
    with progress("stages") as update, contextlib.redirect_stdout(sys.stderr):
        found = asyncio.run(
            replay(
                run, clock=SystemClock(), checkpoint=checkpoint, only=split(only), limit=limit, suite_files=suites,
                concurrency=concurrency, progress=update,
            )
        )  # fmt: skip
    about, missing = map(described, found.members), map(described, found.missing)
    document = report.build(found.attribution, found.run.manifest, list(about), list(missing), found.notes)
    if scores or examples:
        from alignstack.loop import weights

        with contextlib.redirect_stdout(sys.stderr):
            document |= {"drift": weights.drift(found), "margins": weights.margins(found)} if scores else {}
            document |= {"examples": weights.examples(found, examples)} if examples else {}
    if html:
        save(html, report.page(document))
    if as_json:
        emit(document)
    else:
        report.show(document, Console())
