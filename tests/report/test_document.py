import json
from dataclasses import replace

from pydantic import ConfigDict, TypeAdapter, with_config

from alignstack.attribution.attribute import attribute
from alignstack.attribution.result import Attribution
from alignstack.core.grid import Manifest, Record
from alignstack.report import schema
from alignstack.report.document import build, dumps, failures, without_timings
from alignstack.report.schema import Report
from tests.report.sample import manifest, records


def test_a_report_is_exactly_what_the_schema_says(report: Report) -> None:
    strict = TypeAdapter(with_config(ConfigDict(extra="forbid"))(schema.Report))
    assert strict.validate_json(dumps(report)) == report


def test_the_schema_can_be_published_as_json_schema() -> None:
    published = TypeAdapter(schema.Report).json_schema()
    assert {"run", "asr", "layers", "items"} <= set(published["required"])


def test_the_keys_users_rely_on_come_first_and_have_their_shape(report: Report) -> None:
    assert list(report)[:5] == ["run", "stack", "n", "generations", "layer_calls"]
    layer = report["layers"][0]
    promised = ["name", "kind", "side", "solo", "leave_one_out", "shapley", "unique_catches", "seconds", "errors"]
    assert list(layer)[:9] == promised
    assert list(layer["solo"])[:2] == ["safe", "cost"]
    assert list(layer["seconds"]) == ["p50", "p99"]
    assert list(report["asr"])[:4] == ["value", "low", "high", "n"]
    assert list(report["common_mode"])[:4] == ["joint_miss", "product", "kappa", "n_eff"]
    assert list(report["items"][0])[:7] == ["id", "outcome", "first", "blockers", "diagnosis", "side", "cheapest"]


def test_the_weights_are_a_layer_of_the_training_side(report: Report) -> None:
    assert {layer["name"]: layer["side"] for layer in report["layers"]}["model"] == "training"


def test_two_runs_of_the_same_thing_differ_only_under_seconds(
    run: list[Record], made: Manifest, report: Report
) -> None:
    slower = records()
    again = build(attribute(slower, manifest(len(slower)), resamples=50), made, slower)
    assert json.dumps(without_timings(again)) == json.dumps(without_timings(report))
    assert "seconds" not in json.dumps(without_timings(report))


def test_counts_add_up(report: Report) -> None:
    failed = failures(report)
    assert sum(report["diagnoses"].values()) == sum(report["sides"].values()) == len(failed)
    assert sum(one["n"] for one in report["overlap"]) == report["n"]["harmful"]
    assert len(report["items"]) == report["provenance"]["items"]


def test_failures_list_harm_first(report: Report) -> None:
    labels = [item["label"] for item in failures(report)]
    assert labels == sorted(labels, reverse=True)


def test_only_failures_carry_excerpts_and_those_hold_nothing_unprintable(report: Report) -> None:
    for item in report["items"]:
        assert ("request" in item) == (item["diagnosis"] is not None)
        assert item.get("request", "").isprintable() and item.get("answer", "").isprintable()
    assert any("\\x1b[31m" in item.get("request", "") for item in report["items"])


def test_without_records_there_are_no_texts(attribution: Attribution, made: Manifest) -> None:
    assert not any("request" in item for item in build(attribution, made)["items"])


def test_a_small_p_value_is_not_rounded_to_an_impossible_zero(attribution: Attribution, made: Manifest) -> None:
    sure = replace(attribution.comparisons[0], p=3.14159e-40, p_holm=6.28e-40)
    shown = build(replace(attribution, comparisons=(sure,)), made)["comparisons"][0]
    assert (shown["p"], shown["p_holm"]) == (3.14e-40, 6.28e-40)
