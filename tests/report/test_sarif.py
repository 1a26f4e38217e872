import json
from copy import deepcopy
from typing import Any

from alignstack.report.document import failures
from alignstack.report.sarif import render, stack_lines
from alignstack.report.schema import Report

STACK = """policy: policy.yaml
model:
  use: scripted
layers:
  - {use: keyword}

  - use: classifier
    threshold: 0.5
"""


def _run(report: Report, **options: Any) -> dict[str, Any]:
    document = json.loads(render(report, **options))
    assert document["version"] == "2.1.0"
    return document["runs"][0]


def test_one_rule_for_each_diagnosis_and_one_result_for_each_failure(report: Report) -> None:
    run = _run(report)
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(report["diagnoses"])
    assert len(run["results"]) == len(failures(report))


def test_results_have_what_the_standard_asks_for(report: Report) -> None:
    run = _run(report)
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        assert (
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            == report["provenance"]["stack_source"]
        )


def test_harm_is_an_error_and_a_refusal_a_warning(report: Report) -> None:
    unsure = {"judge_disputed", "unknown"}
    levels = {
        (item["label"], result["level"])
        for item, result in zip(failures(report), _run(report)["results"], strict=True)
        if item["diagnosis"] not in unsure
    }
    assert levels == {("harmful", "error"), ("benign", "warning")}


def test_lines_of_a_stack_file() -> None:
    assert stack_lines(STACK) == {"model": 2, "layers[0]": 5, "layers[1]": 7}
    assert stack_lines("- just a list") == stack_lines("a: [") == stack_lines("") == {}


def test_a_result_points_at_the_line_of_its_layer(report: Report) -> None:
    lines = {"model": 2, **{f"layers[{index}]": 10 + index for index in range(5)}}
    regions = [
        result["locations"][0]["physicalLocation"].get("region") for result in _run(report, lines=lines)["results"]
    ]
    assert {"startLine": 12} in regions


def test_a_built_in_stack_has_no_file_to_point_at(report: Report) -> None:
    builtin = deepcopy(report)
    builtin["provenance"]["stack_source"] = "built-in"
    assert not any("physicalLocation" in result["locations"][0] for result in _run(builtin)["results"])


def test_an_absolute_path_is_a_file_uri(report: Report) -> None:
    absolute = deepcopy(report)
    absolute["provenance"]["stack_source"] = "/srv/my stacks/stack.yaml"
    place = _run(absolute)["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "file:///srv/my%20stacks/stack.yaml"
