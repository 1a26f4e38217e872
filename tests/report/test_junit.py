from copy import deepcopy
from xml.etree import ElementTree as xml

from alignstack.report.document import failures
from alignstack.report.junit import render
from alignstack.report.schema import Report
from tests.report.sample import HOSTILE


def test_every_item_is_a_case_and_every_failure_fails(report: Report) -> None:
    root = xml.fromstring(render(report))
    assert root.tag == "testsuites"
    assert len(root.findall("testsuite/testcase")) == len(report["items"])
    assert len(root.findall("testsuite/testcase/failure")) == len(failures(report))
    for suite in root:
        assert int(suite.attrib["tests"]) == len(suite)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))


def test_failures_are_typed_by_cause(report: Report) -> None:
    found = [failure.attrib["type"] for failure in xml.fromstring(render(report)).iter("failure")]
    assert {cause: found.count(cause) for cause in found} == report["diagnoses"]


def test_an_unavailable_item_is_an_error(report: Report) -> None:
    down = deepcopy(report)
    down["items"][0] |= {"outcome": "unavailable", "diagnosis": "unavailable"}
    assert len(xml.fromstring(render(down)).findall("testsuite/testcase/error")) == 1


def test_hostile_text_leaves_the_file_well_formed(report: Report) -> None:
    hostile = deepcopy(report)
    item = failures(hostile)[0]
    item["id"], item["hazard"] = HOSTILE, "\x00\ud800]]>"
    item["fixes"] = [{"side": "training", "layer": None, "text": HOSTILE}]
    cases = xml.fromstring(render(hostile)).iter("testcase")
    assert any("<script>alert(1)</script>" in case.attrib["name"] for case in cases)
