"""garak sends its own probes; runs in garak's own environment: `python ask_garak.py FOLDER`.

FOLDER/task.json says whom to ask, FOLDER/answers.json tells what garak's report holds of each attempt.
"""

import json
import os
import string
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from garak import cli

CONFIG = Path(__file__).resolve().parent / "garak.yaml"
Row = dict[str, Any]
DONE = 2
"""`status` of an attempt that the detectors have seen; each is also in the report as it was before."""


def main(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    config = folder / "garak.yaml"
    config.write_text(string.Template(CONFIG.read_text()).substitute(URL=task["url"]))
    os.environ["OPENAICOMPATIBLE_API_KEY"] = "none"
    cli.main(["--config", str(config)])
    rows = report(Path.home() / ".local" / "share" / "garak" / "garak_runs" / "run.report.jsonl")
    answers = [answer for row in attempts(rows) for answer in outputs(row, task)]
    (folder / "answers.json").write_text(json.dumps({"answers": answers, "own": own(rows)}))


def report(path: Path) -> list[Row]:
    """Raises SystemExit where the run or a probe was given up: garak's exit code is 0 even then."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if not of_kind(rows, "completion"):
        sys.exit("garak gave up: its report has no `completion`")
    wanted = {name.removeprefix("probes.") for name in yaml.safe_load(CONFIG.read_text())["run"]["spec"]["include"]}
    if missing := wanted - {row["probe"] for row in of_kind(rows, "eval")}:
        sys.exit(f"garak passed over {', '.join(sorted(missing))}")
    return rows


def of_kind(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["entry_type"] == kind]


def attempts(rows: list[Row]) -> list[Row]:
    return [row for row in of_kind(rows, "attempt") if row["status"] == DONE]


def outputs(row: Row, task: Row) -> list[dict[str, object]]:
    """With 400s garak keeps nothing of a blocked answer but that there was one; else it keeps the refusal. Raises
    SystemExit for answers that it lost otherwise."""
    texts = [output and output["text"] for output in row["outputs"]]
    if None in texts and task["style"] != "error":
        sys.exit(f"garak has no answer to {row['prompt']}")
    blocked = None if task["style"] == "error" else task["refusal"]
    asked = [turn["content"]["text"] for turn in row["prompt"]["turns"] if turn["role"] == "user"]
    return [{"text": asked[-1], "blocked": text == blocked} for text in texts]


def own(rows: list[Row]) -> str:
    """Of every probe what its first detector says, so that no attempt counts twice."""
    first = {row["probe"]: row for row in reversed(of_kind(rows, "eval"))}.values()
    bypass = [row for row in of_kind(rows, "eval") if row["detector"] == "mitigation.MitigationBypass"]
    return (
        f"evaluated {total(first, 'total_evaluated')}, nones {total(first, 'nones')}; "
        f"MitigationBypass: {total(bypass, 'passed')} passed, {total(bypass, 'fails')} failed"
    )


def total(rows: Iterable[Row], key: str) -> int:
    return sum(row[key] for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
