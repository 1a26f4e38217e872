"""From prompts to cases, and from what was said of them to the rows that are trained on; both last over a kill."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignstack.training import dataset
from alignstack.training.feedback.case import Case, cases
from alignstack.training.stage import ROWS, Stage, write_rows

PROMPTS = "prompts.jsonl"


def asked(stage: Stage, sources: Sequence[dataset.Source], held_out: Sequence[Path]) -> list[Case]:
    """The requests of a stage; of a resumed run the ones that it started with."""
    rows, file = dataset.for_stage(stage, sources, "prompts", held_out), stage.work / PROMPTS
    if file.is_file():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    else:
        part = file.with_name(file.name + ".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(part, file)
    return cases(rows)


def learn_from(stage: Stage, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes them the rows of the stage, in place of the prompts."""
    part = stage.work / f"{ROWS}.part"
    write_rows(part, rows)
    os.replace(part, stage.work / ROWS)
    return rows


def turn(text: str) -> dict[str, str]:
    """The assistant's turn."""
    return {"role": "assistant", "content": text}


def messages(case: Case, answer: str) -> list[Mapping[str, str]]:
    """The whole conversation."""
    return [*case.prompt, turn(answer)]
