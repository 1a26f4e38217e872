"""The worked example of the guide runs and prints what the guide says."""

import re
from pathlib import Path

import pytest

from alignstack.attribution.result import HARM_DIAGNOSES, OUTCOMES, REFUSAL_DIAGNOSES

GUIDE = (Path(__file__).parents[2] / "docs" / "attribution.md").read_text(encoding="utf-8")


def test_the_worked_example_prints_what_the_guide_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", GUIDE, re.DOTALL).groups()
    exec(compile(code, "docs/attribution.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_outcome_and_diagnosis_is_defined() -> None:
    for name in (*OUTCOMES, *HARM_DIAGNOSES, *REFUSAL_DIAGNOSES):
        assert f"`{name}`" in GUIDE, name
