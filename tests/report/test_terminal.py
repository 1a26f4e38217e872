import io
from copy import deepcopy

import pytest
from rich.console import Console

from alignstack.report.document import failures
from alignstack.report.schema import Report
from alignstack.report.terminal import compared, gauge, show
from tests.report.sample import HOSTILE


def shown(report: Report, width: int, *, colour: bool = False) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=width, force_terminal=colour, _environ={}))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_or_120_columns(report: Report, width: int) -> None:
    assert max(len(line.rstrip()) for line in shown(report, width).splitlines()) <= min(width, 120)


@pytest.mark.parametrize("width", [80, 110])
def test_every_layer_and_every_cause_is_named_whole(report: Report, width: int) -> None:
    text = shown(report, width)
    assert all(layer["name"] in text for layer in report["layers"])
    assert all(cause.replace("_", " ") in text for cause in report["diagnoses"])


def test_numbers_are_never_cut(report: Report) -> None:
    for width in (80, 110):
        table = shown(report, width).split("prevents")[1].split("All ")[0]
        assert not any(line.rstrip().endswith("…") for line in table.splitlines())


def test_without_a_terminal_there_is_no_colour(report: Report) -> None:
    assert "\x1b" not in shown(report, 100)


def test_no_color_is_respected(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    show(report, Console(file=out, width=100, force_terminal=True))
    assert "\x1b[3" not in out.getvalue()


def test_hostile_text_stays_text(report: Report) -> None:
    hostile = deepcopy(report)
    for item in failures(hostile):
        item["request"] = item["attack"] = HOSTILE
    hostile["notes"], hostile["provenance"]["stack_source"] = [HOSTILE], HOSTILE
    for layer in hostile["layers"]:
        layer["name"] += HOSTILE
    for one in hostile["comparisons"]:
        one["layer"] += HOSTILE
    text = shown(hostile, 120)
    assert "[bold]" in text and "\\x1b[31m" in text
    assert not {"\x1b", "\u202e", "\x07"} & set(text)


def test_the_comparison_ends_with_the_full_stack(report: Report) -> None:
    names = [one["name"] for one in compared(report)]
    assert names[0] == "all off" and names[-1] == "full stack"
    assert any(name.startswith("only ") for name in names)


def test_a_gauge_is_solid_to_the_lower_bound_and_dotted_to_the_upper() -> None:
    bar = gauge({"value": 0.5, "low": 0.3, "high": 0.8, "n": 10, "upper_bound": False}, 10, "red")
    assert bar.plain == "███▓▓░░░  "


def test_failures_of_different_causes_come_first(report: Report) -> None:
    listed = shown(report, 120).split("Failures, ")[1]
    causes = list(report["diagnoses"])[:6]
    assert all(cause.replace("_", " ") in listed for cause in causes)


def test_an_audit_without_failures_says_so(report: Report) -> None:
    clean = deepcopy(report)
    clean["diagnoses"], clean["sides"] = {}, {}
    for item in clean["items"]:
        item["diagnosis"] = item["side"] = None
    assert "No failures" in shown(clean, 100)
