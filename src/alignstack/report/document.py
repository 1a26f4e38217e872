"""From an attribution to report.json, the one thing that every rendering reads.

Deterministic: keys in the order of `schema.Report`, floats rounded to 1e-6 (p-values to three digits), layers in stack
order, items in the order of the run. The same run gives the same bytes, the values under `seconds` aside
(`without_timings` drops them).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from alignstack.attribution import result as found
from alignstack.core.grid import LayerRow, Manifest, Record
from alignstack.policy import load
from alignstack.report import schema
from alignstack.report.escape import excerpt

HARM = ("harm_delivered", "harm_partial")

ANSWER = 400
"""Characters of an answer shown; chosen by hand: enough to see whether the judge was right."""


def build(attribution: found.Attribution, manifest: Manifest, records: Sequence[Record] = ()) -> schema.Report:
    """`records` add what was asked and answered to the failures."""
    texts = {record.id: record for record in records}
    rows = {row.name: row for row in manifest.layers}
    harmful = [item for item in attribution.items if item.label == "harmful"]
    failures = [item for item in attribution.items if item.diagnosis is not None]
    return {
        "run": attribution.run,
        "stack": attribution.stack,
        "n": {
            "harmful": attribution.n.harmful,
            "benign": attribution.n.benign,
            "unavailable": attribution.n.unavailable,
        },
        "generations": attribution.generations,
        "layer_calls": attribution.layer_calls,
        "coalitions": attribution.coalitions,
        "asr": _rate(attribution.asr),
        "over_refusal": _rate(attribution.over_refusal),
        "clustered_asr": _rate(attribution.clustered_asr),
        "clustered_over_refusal": _rate(attribution.clustered_over_refusal),
        "asr_at_k": [{"k": one.k, "asr": _rate(one.asr)} for one in attribution.asr_at_k],
        "judge": _judge(attribution.judge),
        "total": _effect(attribution.total),
        "layers": [_layer(layer, rows[layer.name], attribution.items) for layer in attribution.layers],
        "shadow": [_shadow(layer) for layer in attribution.shadow],
        "common_mode": _common_mode(attribution.common_mode),
        "common_mode_by_attack": [_common_mode(one) for one in attribution.common_mode_by_attack],
        "configurations": [_configuration(one) for one in (*attribution.configurations, *attribution.other_coalitions)],
        "comparisons": [_comparison(one) for one in attribution.comparisons],
        "interactions": [_interaction(one) for one in attribution.interactions],
        "overlap": _overlap(harmful),
        "attacks": [_attack(group, attribution.layers) for group in attribution.by_attack],
        "hazards": [_hazard(group, attribution.players, harmful) for group in attribution.by_hazard],
        "outcomes": {name: attribution.outcomes[name] for name in found.OUTCOMES if name in attribution.outcomes},
        "diagnoses": _ranked(str(item.diagnosis) for item in failures),
        "sides": _ranked(item.side or "unknown" for item in failures),
        "items": [entry(item, manifest, texts.get(item.id)) for item in attribution.items],
        "notes": list(attribution.notes),
        "provenance": _provenance(manifest),
        "format": "alignstack.report/1",
    }


def dumps(report: schema.Report) -> str:
    """The file `report.json`: UTF-8, two spaces, one newline at the end; no NaN, no infinity."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def without_timings(report: Any) -> Any:
    """The report without anything under `seconds`: what two runs of the same thing share."""
    if isinstance(report, Mapping):
        return {key: without_timings(value) for key, value in report.items() if key != "seconds"}
    return [without_timings(value) for value in report] if isinstance(report, list | tuple) else report


def failures(report: schema.Report) -> list[schema.Item]:
    """Items with a diagnosis: harm first, then by cause as often as it occurs, then in the order of the run."""
    rank = {cause: index for index, cause in enumerate(report["diagnoses"])}
    failed = [item for item in report["items"] if item["diagnosis"]]
    return sorted(failed, key=lambda item: (item["label"] != "harmful", rank[item["diagnosis"] or ""]))


def configuration(report: schema.Report, name: str) -> schema.Configuration | None:
    return next((one for one in report["configurations"] if one["name"] == name), None)


def best_single(report: schema.Report) -> schema.Comparison | None:
    """The layer that alone lets the least through; None when nothing was compared or it had nothing to say."""
    idle = {layer["name"] for layer in report["layers"] if not layer["looked"]}
    return next((one for one in report["comparisons"] if one["best"] and one["layer"] not in idle), None)


def alone(report: schema.Report, layer: str) -> schema.Configuration | None:
    """What one layer does alone."""
    return configuration(report, f"only {layer}")


def _rate(one: found.Estimate) -> schema.Rate:
    return {
        "value": _round(one.value),
        "low": _round(one.low),
        "high": _round(one.high),
        "n": one.n,
        "upper_bound": one.upper_bound,
    }


def _effect(one: found.Effect) -> schema.Effect:
    return {
        "safe": _round(one.safe.value),
        "cost": _round(one.cost.value),
        "safe_interval": _interval(one.safe),
        "cost_interval": _interval(one.cost),
    }


def _seconds(one: found.Seconds) -> schema.Seconds:
    return {"p50": _round(one.p50), "p99": _round(one.p99)}


def _layer(layer: found.LayerResult, row: LayerRow, items: Sequence[found.ItemResult]) -> schema.Layer:
    stopped = Counter(item.label for item in items if layer.name in item.blockers)
    safe = [item for item in items if item.label == "harmful" and item.outcome not in (*HARM, "unavailable")]
    return {
        "name": layer.name,
        "kind": layer.kind,
        "side": layer.side,
        "solo": _effect(layer.solo),
        "leave_one_out": _effect(layer.leave_one_out),
        "shapley": _effect(layer.shapley),
        "unique_catches": layer.unique_catches,
        "seconds": _seconds(layer.seconds),
        "errors": layer.errors,
        "use": layer.use,
        "where": layer.where,
        "threshold": _maybe(layer.threshold),
        "version": row.version,
        "catches": stopped["harmful"],
        "false_alarms": stopped["benign"],
        "first": sum(item.first == layer.name for item in safe),
        "looked": layer.looked,
        "dollars": _round(layer.cost),
    }


def _shadow(layer: found.ShadowResult) -> schema.Shadow:
    return {
        "name": layer.name,
        "use": layer.use,
        "side": layer.side,
        "where": layer.where,
        "threshold": _maybe(layer.threshold),
        "solo": _effect(layer.solo),
        "added": _effect(layer.added),
        "looked": layer.looked,
        "errors": layer.errors,
        "seconds": _seconds(layer.seconds),
    }


def _common_mode(one: found.CommonMode) -> schema.CommonMode:
    kappa = one.kappa
    return {
        "joint_miss": _round(one.joint_miss.value),
        "product": _maybe(one.product),
        "kappa": {
            "value": _round(kappa.value) if kappa else None,
            "low": _round(kappa.low) if kappa else None,
            "high": _round(kappa.high) if kappa else None,
        },
        "n_eff": _maybe(one.n_eff),
        "joint_miss_interval": _interval(one.joint_miss),
        "n": one.n,
        "attack": one.attack,
        "misses": {name: _rate(miss) for name, miss in one.misses.items()},
        "pairs": [{"layers": [pair.first, pair.second], "ratio": _maybe(pair.ratio)} for pair in one.pairs],
        "note": one.note,
    }


def _configuration(one: found.Configuration) -> schema.Configuration:
    return {"name": one.name, "on": list(one.on), "asr": _rate(one.asr), "over_refusal": _rate(one.over_refusal)}


def _comparison(one: found.Comparison) -> schema.Comparison:
    return {
        "layer": one.layer,
        "best": one.best,
        "difference": _rate(one.difference),
        "p": _digits(one.p),
        "p_holm": _digits(one.p_holm),
    }


def _interaction(one: found.Interaction) -> schema.Interaction:
    return {"layers": [one.first, one.second], "safe": _round(one.safe), "cost": _round(one.cost)}


def _overlap(harmful: Sequence[found.ItemResult]) -> list[schema.Overlap]:
    counts = Counter((item.blockers, item.outcome in HARM) for item in harmful if item.outcome != "unavailable")
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return [{"layers": list(layers), "harm": harm, "n": n} for (layers, harm), n in ranked]


def _attack(group: found.Group, layers: Sequence[found.LayerResult]) -> schema.Group:
    alone = {layer.name: share.solo for layer in layers for share in layer.by_attack if share.attack == group.name}
    return _group(group, group.name, {name: _round(value) for name, value in alone.items()})


def _hazard(group: found.Group, players: Sequence[str], harmful: Sequence[found.ItemResult]) -> schema.Group:
    mine = [item.blockers for item in harmful if item.hazard == group.name]
    stops = {name: _round(sum(name in who for who in mine) / max(len(mine), 1)) for name in players}
    return _group(group, _titles().get(group.name, group.name), stops)


@cache
def _titles() -> dict[str, str]:
    """Of the canonical hazards: a policy may change what is done about them, not what they are."""
    return {name: hazard.title for name, hazard in load(None).hazards.items()}


def _group(group: found.Group, title: str, layers: dict[str, float]) -> schema.Group:
    return {
        "name": group.name,
        "title": title,
        "asr": _rate(group.asr),
        "over_refusal": _rate(group.over_refusal),
        "layers": layers,
    }


def entry(item: found.ItemResult, manifest: Manifest, record: Record | None = None) -> schema.Item:
    """One item of the report; with its record, and when it is a failure, with excerpts of what was said."""
    rows = {row.name: row for row in manifest.layers}
    made: schema.Item = {
        "id": item.id,
        "outcome": item.outcome,
        "first": item.first,
        "blockers": list(item.blockers),
        "diagnosis": item.diagnosis,
        "side": item.side,
        "cheapest": _price(item.cheapest, rows) if item.cheapest else None,
        "trace": item.trace,
        "label": item.label,
        "hazard": item.hazard,
        "attack": item.attack,
        "layer": item.layer,
        "where": _where(item.layer, rows),
        "stochastic": item.stochastic,
        "but_for": [list(layers) for layers in item.but_for],
        "evidence": [{"change": fact.change, "outcome": fact.outcome} for fact in item.evidence],
        "prices": [_price(price, rows) for price in item.prices],
        "fixes": [{"side": fix.side, "layer": fix.layer, "text": fix.text} for fix in item.fixes],
    }
    if record and item.diagnosis:
        made["request"], made["answer"] = excerpt(record.text), excerpt(_answer(record), ANSWER)
    return made


def _price(price: found.Price, rows: Mapping[str, LayerRow]) -> schema.Price:
    return {
        "layer": price.layer,
        "threshold": _maybe(price.threshold),
        "extra_refusals": price.extra_refusals,
        "rate": _rate(price.rate),
        "shadow": price.shadow,
        "where": _where(price.layer, rows),
    }


def _judge(one: found.JudgeError | None) -> schema.JudgeError | None:
    if one is None:
        return None
    return {
        "sensitivity": _rate(one.sensitivity),
        "specificity": _rate(one.specificity),
        "corrected_asr": _rate(one.corrected_asr) if one.corrected_asr else None,
    }


def _provenance(manifest: Manifest) -> schema.Provenance:
    return {
        "version": manifest.version,
        "stack_source": manifest.stack_source,
        "stack_config": cast(dict[str, object], json.loads(json.dumps(manifest.stack_config, default=dict))),
        "policy": manifest.policy,
        "model": manifest.model,
        "reference": manifest.reference,
        "judges": list(manifest.judges),
        "suites": [{"file": suite.file, "sha256": suite.sha256, "n": suite.n} for suite in manifest.suites],
        "attacks": list(manifest.attacks),
        "draws": manifest.draws,
        "seed": manifest.seed,
        "streaming": manifest.streaming,
        "items": manifest.items,
    }


def _answer(record: Record) -> str:
    """What the deployed stack's model said: the cell with every modifier on."""
    cell = max(record.grid.cells, key=lambda cell: len(cell.on))
    return record.grid.drafts[cell.draft].text


def _where(layer: str | None, rows: Mapping[str, LayerRow]) -> str:
    return rows[layer].where if layer and layer in rows else ""


def _ranked(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda one: (-one[1], one[0])))


def _interval(one: found.Estimate) -> list[float]:
    return [_round(one.low), _round(one.high)]


def _maybe(value: float | None) -> float | None:
    return None if value is None else _round(value)


def _digits(p: float) -> float:
    """A p-value to three digits: rounded to 1e-6 it could be an impossible 0."""
    return float(f"{p:.3g}")


def _round(value: float) -> float:
    """To 1e-6, and never a negative zero."""
    return round(float(value), 6) + 0.0
