"""JUnit XML: every item of the audit is a test case, so a CI page counts them and lists the failures by cause."""

from xml.etree import ElementTree as xml

from alignstack.report.escape import visible
from alignstack.report.schema import Item, Report
from alignstack.report.words import CAUSES, OUTCOMES


def render(report: Report) -> str:
    """One suite for harmful requests and one for benign ones; `unavailable` items are errors, not failures."""
    root = xml.Element("testsuites", name=f"alignstack {report['run'][:12]}")
    for label in ("harmful", "benign"):
        _suite(root, label, [item for item in report["items"] if item["label"] == label])
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: xml.Element, label: str, items: list[Item]) -> None:
    errors = [item for item in items if item["outcome"] == "unavailable"]
    failed = [item for item in items if item["diagnosis"] and item not in errors]
    counts = {"tests": str(len(items)), "failures": str(len(failed)), "errors": str(len(errors))}
    suite = xml.SubElement(root, "testsuite", counts | {"name": label})
    for item in items:
        _case(suite, item)


def _case(suite: xml.Element, item: Item) -> None:
    group = ".".join(filter(None, (item["label"], item["hazard"], item["attack"])))
    case = xml.SubElement(suite, "testcase", classname=visible(group), name=visible(item["id"]))
    if item["outcome"] == "unavailable":
        xml.SubElement(case, "error", type="unavailable", message=OUTCOMES["unavailable"])
    elif item["diagnosis"]:
        message = f"{OUTCOMES[item['outcome']]}: {CAUSES[item['diagnosis']]}"
        xml.SubElement(case, "failure", type=item["diagnosis"], message=message).text = visible(_details(item))


def _details(item: Item) -> str:
    evidence = "; ".join(f"{fact['change']}: {fact['outcome']}" for fact in item["evidence"])
    fixes = "; ".join(f"{fix['side']}: {fix['text']}" for fix in item["fixes"])
    return f"alignstack why {item['trace']} | evidence: {evidence or 'none'} | fixes: {fixes or 'none'}"
