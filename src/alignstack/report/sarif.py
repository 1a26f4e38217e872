"""SARIF 2.1.0: one rule per diagnosis, one result per failure, pointing at the line of the stack file that
a fix touches."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alignstack.report.document import failures
from alignstack.report.schema import Item, Report
from alignstack.report.words import CAUSES, OUTCOMES

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
BUILT_IN = "built-in"
"""Where a stack comes from that is no file of the user's."""

_UNSURE = ("judge_disputed", "unknown")


def render(report: Report, lines: Mapping[str, int] | None = None) -> str:
    """`lines`: what `stack_lines` says of the stack file; without it results name the file and the layer only."""
    rules = list(report["diagnoses"])
    source = report["provenance"]["stack_source"]
    driver = {
        "name": "alignstack",
        "version": report["provenance"]["version"],
        "rules": [{"id": cause, "shortDescription": {"text": CAUSES[cause]}} for cause in rules],
    }
    results = [_result(item, rules, source, lines or {}) for item in failures(report)]
    run = {"tool": {"driver": driver}, "automationDetails": {"id": f"alignstack/{report['run']}"}, "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def stack_lines(text: str) -> dict[str, int]:
    """First line (from 1) of `model` and of each `layers[i]` in a stack file; empty when it is not one."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    top = root.value if isinstance(root, yaml.MappingNode) else []
    nodes = {key.value: (key, value) for key, value in top}
    found = {"model": nodes["model"][0].start_mark.line + 1} if "model" in nodes else {}
    layers = nodes["layers"][1] if "layers" in nodes else None
    if isinstance(layers, yaml.SequenceNode):
        found |= {f"layers[{index}]": node.start_mark.line + 1 for index, node in enumerate(layers.value)}
    return found


def _result(item: Item, rules: list[str], source: str, lines: Mapping[str, int]) -> dict[str, Any]:
    cause = item["diagnosis"] or "unknown"
    level = "note" if cause in _UNSURE else "error" if item["label"] == "harmful" else "warning"
    return {
        "ruleId": cause,
        "ruleIndex": rules.index(cause),
        "level": level,
        "message": {"text": _message(item)},
        "locations": [_location(item, source, lines)],
        "partialFingerprints": {"alignstackItem/v1": item["id"]},
        "properties": {
            "side": item["side"],
            "attack": item["attack"],
            "hazard": item["hazard"],
            "trace": item["trace"],
        },
    }


def _message(item: Item) -> str:
    fixes = " ".join(f"Fix ({fix['side']}): {fix['text']}." for fix in item["fixes"])
    return f"{item['id']}: {OUTCOMES[item['outcome']]}. {fixes} See: alignstack why {item['trace']}"


def _location(item: Item, source: str, lines: Mapping[str, int]) -> dict[str, Any]:
    price = item["cheapest"]
    layer, where = (price["layer"], price["where"]) if price else (item["layer"], item["where"])
    location: dict[str, Any] = {}
    if source != BUILT_IN:
        location["physicalLocation"] = _place(source, where, lines)
    if layer:
        location["logicalLocations"] = [{"name": layer, "kind": "member"}]
    return location


def _place(source: str, where: str, lines: Mapping[str, int]) -> dict[str, Any]:
    path = Path(source)
    place: dict[str, Any] = {"artifactLocation": {"uri": path.as_uri() if path.is_absolute() else path.as_posix()}}
    key = re.search(r"layers\[\d+\]|model", where.rpartition(": ")[2])
    if key and key[0] in lines:
        place["region"] = {"startLine": lines[key[0]]}
    return place
