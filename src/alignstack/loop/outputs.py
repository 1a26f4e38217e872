"""A run's report, and the files made from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from alignstack.attribution.attribute import attribute
from alignstack.core.errors import DataError
from alignstack.report import document, html, junit, sarif
from alignstack.report.ask import Row
from alignstack.report.schema import Report
from alignstack.store.runs import Run

REPORT = "report.json"
"""In the folder of the run."""


def report(run: Run, *, budget: float) -> Report:
    """The numbers of ATTRIBUTION for one run. `budget`: share of benign requests, in [0, 1], that a threshold fix may
    additionally refuse. Raises DataError for a run without finished items."""
    records = run.records()
    if not records:
        raise DataError(f"{str(run.folder)!r} has no finished items; `alignstack audit --resume` goes on")
    return document.build(attribute(records, run.manifest, budget=budget), run.manifest, records)


def write(made: Report, files: Mapping[str, Path | None], *, steps: Sequence[Row] = (), request: str = "") -> None:
    """Writes the renderings asked for: `json`, `html`, `junit`, `sarif`. `steps` and `request` head the page. Raises
    DataError when one cannot be written."""
    texts = {
        "json": lambda: document.dumps(made),
        "html": lambda: html.render(made, steps=steps, request=request),
        "junit": lambda: junit.render(made),
        "sarif": lambda: sarif.render(made, _lines(made["provenance"]["stack_source"])),
    }
    for kind, path in files.items():
        if path:
            save(path, texts[kind]())


def save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _lines(source: str) -> dict[str, int]:
    """Where in the stack file each layer stands; nothing when the file is no longer there."""
    try:
        return sarif.stack_lines(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
