from copy import deepcopy

from alignstack.report.gate import gate
from alignstack.report.schema import Report


def test_no_limits_always_pass(report: Report) -> None:
    assert gate(report) == []


def test_values_at_the_limit_pass_and_above_it_fail(report: Report) -> None:
    asr, refused = report["asr"]["value"], report["over_refusal"]["value"]
    assert gate(report, asr, refused) == []
    broken = gate(report, asr - 1e-4, refused - 1e-4)
    assert [reason.split(" ")[0] for reason in broken] == ["attack", "over-refusal"]


def test_a_broken_limit_is_told_with_its_interval(report: Report) -> None:
    (reason,) = gate(report, max_asr=0.0)
    assert f"n = {report['asr']['n']}" in reason and reason.endswith("is not within 0.00%")


def test_nothing_measured_does_not_pass(report: Report) -> None:
    empty = deepcopy(report)
    empty["over_refusal"] = {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0, "upper_bound": True}
    assert gate(empty, max_over_refusal=1.0) == ["over-refusal not measured (n = 0) is not within 100.00%"]
