"""The whole result of one run."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest

from alignstack.attribution.attribute import attribute, attribute_matrix
from alignstack.attribution.intervals import mcnemar, wilson
from alignstack.attribution.result import Attribution
from tests.attribution import brute
from tests.attribution.build import call, manifest, meta, random_matrix, record, row, weights

OFF, ON = (), ("model",)
GUARD, OUT = row("guard", threshold=0.5), row("out", phase="output", threshold=0.5)
STACK = manifest(GUARD, weights(), OUT, row("spare", mode="shadow"), row("limit"))


def run(seed: int = 0, n: int = 60, **facts) -> list:
    rng = np.random.default_rng(seed)

    def one(i: int):
        label = "harmful" if i % 2 else "benign"
        kinds = ["harm", "refusal", "answer"] if label == "harmful" else ["answer", "refusal"]
        calls = [
            call(name, "block" if (score := float(rng.random())) > 0.7 else "allow", score, seconds=0.01 * i)
            for name in ("guard", "out", "spare")
        ]
        return record(
            str(i),
            label,
            drafts={OFF: "harm" if label == "harmful" else "answer", ON: str(rng.choice(kinds))},
            calls=[*calls, call("limit", "abstain")],
            attack=("none", "base64")[i // 2 % 2],
            hazard=("vcr", "prv")[i // 4 % 2],
            cluster=str(i // 4),
            **facts,
        )

    return [one(i) for i in range(n)]


@pytest.fixture(scope="module")
def result() -> Attribution:
    return attribute(run(), STACK, resamples=100)


def numbers(value: object) -> Iterator[float]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from numbers(inner)
    else:
        assert value is None or type(value) in (int, float, str, bool), type(value)
        if isinstance(value, float):
            yield value


def test_every_number_is_finite_and_a_plain_python_one(result: Attribution) -> None:
    assert all(math.isfinite(number) for number in numbers(result))


def test_the_same_run_and_seed_give_the_same_result(result: Attribution) -> None:
    assert attribute(run(), STACK, resamples=100) == result
    assert attribute(run(), STACK, resamples=100, seed=1).clustered_asr != result.clustered_asr


def test_every_interval_holds_its_value(result: Attribution) -> None:
    for layer in result.layers:
        for effect in (layer.solo, layer.leave_one_out, layer.shapley):
            for estimate in (effect.safe, effect.cost):
                assert estimate.low <= estimate.value <= estimate.high


def test_shapley_values_sum_to_what_the_stack_avoids_and_costs(result: Attribution) -> None:
    off, full = result.configurations[1], result.configurations[0]
    assert (off.name, full.name) == ("all off", "full stack")
    assert sum(layer.shapley.safe.value for layer in result.layers) == pytest.approx(result.total.safe.value)
    assert result.total.safe.value == pytest.approx(off.asr.value - full.asr.value)
    assert sum(layer.shapley.cost.value for layer in result.layers) == pytest.approx(result.total.cost.value)
    assert result.total.cost.value == pytest.approx(full.over_refusal.value - off.over_refusal.value)


def test_named_configurations_are_those_coalitions() -> None:
    matrix = random_matrix(np.random.default_rng(3), 80, 2, 2)
    found = attribute_matrix(matrix, manifest(), resamples=10)
    for configuration in (*found.configurations, *found.other_coalitions):
        harmed = brute.passes(matrix, "safe", frozenset(configuration.on))[matrix.harmful]
        refused = ~brute.passes(matrix, "cost", frozenset(configuration.on))[~matrix.harmful]
        assert configuration.asr == wilson(int(harmed.sum()), len(harmed))
        assert configuration.over_refusal == wilson(int(refused.sum()), len(refused))


def test_too_many_coalitions_are_left_alone() -> None:
    matrix = random_matrix(np.random.default_rng(3), 20, 2, 7)
    assert attribute_matrix(matrix, manifest(), resamples=10).other_coalitions == ()


def test_weights_and_guards_stand_apart(result: Attribution) -> None:
    on = {configuration.name: configuration.on for configuration in result.configurations}
    assert on["weights only"] == ("model",) and on["guards only"] == ("guard", "out", "limit")


def test_the_best_single_layer_is_compared_on_the_same_items(result: Attribution) -> None:
    matrix_asr = {c.name: c.asr.value for c in result.configurations}
    best = next(c for c in result.comparisons if c.best)
    assert matrix_asr[f"only {best.layer}"] == min(matrix_asr[f"only {layer}"] for layer in result.players)
    assert best.difference.value == pytest.approx(matrix_asr[f"only {best.layer}"] - matrix_asr["full stack"])
    lost = round(best.difference.value * result.n.harmful)
    assert best.p == pytest.approx(mcnemar(lost, 0)) or best.p > mcnemar(lost, 0)
    assert all(c.p_holm >= c.p for c in result.comparisons)


def test_a_limit_is_a_null_player_with_a_note(result: Attribution) -> None:
    limit = next(layer for layer in result.layers if layer.name == "limit")
    assert limit.looked == 0 and limit.shapley.safe.value == limit.solo.cost.value == 0
    assert "limit" not in result.common_mode.misses
    assert any("query budget" in note and "limit" in note for note in result.notes)


def test_shadow_layers_get_what_they_would_do_and_no_credit(result: Attribution) -> None:
    assert "spare" not in result.players and [s.name for s in result.shadow] == ["spare"]
    spare = result.shadow[0]
    assert spare.solo.safe.value > 0 and spare.solo.safe.value >= spare.added.safe.value


def test_counts_generations_calls_and_coalitions(result: Attribution) -> None:
    assert (result.n.harmful, result.n.benign, result.generations, result.layer_calls) == (30, 30, 120, 480)
    assert result.coalitions == 2 ** len(result.players) == 16
    assert sum(result.outcomes.values()) == 60 and sum(result.diagnoses.values()) == sum(
        item.diagnosis is not None for item in result.items
    )


def test_families_and_hazards_partition_the_items(result: Attribution) -> None:
    assert [group.name for group in result.by_attack] == ["base64", "none"]
    assert sum(group.asr.n for group in result.by_attack) == sum(group.asr.n for group in result.by_hazard) == 30
    for layer in result.layers:
        mean = sum(share.shapley * share.n for share in layer.by_attack) / 30
        assert mean == pytest.approx(layer.shapley.safe.value)
    assert [common.attack for common in result.common_mode_by_attack] == ["base64", "none"]


def test_unique_catches_are_items_that_leave_the_stack_with_the_layer() -> None:
    matrix = random_matrix(np.random.default_rng(5), 100, 1, 2)
    found = attribute_matrix(matrix, manifest(), resamples=10)
    everyone = frozenset(matrix.layout.names)
    for layer in found.layers:
        lost = brute.passes(matrix, "safe", everyone - {layer.name}) & ~brute.passes(matrix, "safe", everyone)
        assert layer.unique_catches == int(lost[matrix.harmful].sum())


def test_seconds_and_errors_come_from_the_calls(result: Attribution) -> None:
    guard = next(layer for layer in result.layers if layer.name == "guard")
    assert guard.seconds.p50 == pytest.approx(0.01 * np.quantile(np.repeat(np.arange(60), 2), 0.5))
    down = [record("x", drafts={OFF: "harm", ON: "harm"}, calls=[call("guard", None, fault="error")])]
    assert attribute(down, manifest(GUARD, weights()), resamples=10).layers[0].errors == 1


def test_items_without_an_answer_are_in_no_rate() -> None:
    lost = record("x", drafts={OFF: "harm", ON: "unavailable"}, calls=[call("guard")])
    kept = record("y", drafts={OFF: "harm", ON: "harm"}, calls=[call("guard")])
    found = attribute([lost, kept], manifest(GUARD, weights()), resamples=10)
    assert (found.n.harmful, found.n.unavailable, found.asr.n, found.asr.value) == (1, 1, 1, 1.0)
    assert any("no answer on 1 of 2" in note for note in found.notes)


def test_only_harmful_items_still_give_a_result_that_says_so() -> None:
    found = attribute(
        [record("x", drafts={OFF: "harm", ON: "harm"}, calls=[call("guard")])], manifest(GUARD, weights())
    )
    assert (found.over_refusal.n, found.over_refusal.high) == (0, 1.0)
    assert "There are no benign items: nothing can be said about them." in found.notes


def test_more_draws_give_asr_at_k() -> None:
    """One request, 2 of 5 draws harmful: 0.4, and 1 - C(3, 2) / C(5, 2) = 0.7."""
    draws = [
        record(
            f"x{i}",
            drafts={OFF: "harm", ON: "harm" if i < 2 else "answer"},
            calls=[call("guard")],
            draw=i,
            plain="x",
            cluster="x",
        )
        for i in range(5)
    ]
    found = attribute(draws, manifest(GUARD, weights()), resamples=10)
    assert {at.k: at.asr.value for at in found.asr_at_k} == pytest.approx({1: 0.4, 2: 0.7, 5: 1.0})


def test_a_judge_checked_by_people_is_corrected_and_the_plain_rate_stays() -> None:
    """20 delivered answers judged harmful, of which people confirm 8 of 10; 20 judged safe, confirmed 10 of 10."""
    items = []
    for i in range(40):
        kind = "harm" if i < 20 else "answer"
        human = None if 10 <= i < 20 or i >= 30 else ("harmful" if i < 8 else "safe")
        items.append(record(str(i), drafts={OFF: "harm", ON: kind}, calls=[call("guard")], human=human))
    found = attribute(items, manifest(GUARD, weights()), resamples=10)
    assert found.judge is not None and found.judge.corrected_asr is not None
    assert (found.judge.sensitivity.value, found.judge.specificity.value) == (1.0, pytest.approx(10 / 12))
    assert found.judge.uncorrected_asr.value == 0.5
    assert found.judge.corrected_asr.value == pytest.approx((0.5 + 10 / 12 - 1) / (10 / 12))
    assert found.judge.corrected_asr.high - found.judge.corrected_asr.low > 0.3


def test_a_stack_without_reference_says_how_the_weights_enter() -> None:
    items = [record("x", drafts={ON: "refusal"}, calls=[call("guard")])]
    found = attribute(items, manifest(GUARD, weights(), reference=None), resamples=10)
    assert found.refusal_as_veto and any("No reference checkpoint" in note for note in found.notes)
    assert next(layer for layer in found.layers if layer.name == "model").shapley.safe.value == 1.0


def test_a_hundred_thousand_verdicts_of_clusters_and_draws_keep_their_order() -> None:
    matrix = random_matrix(np.random.default_rng(1), 300, 1, 2)
    found = attribute_matrix(dataclasses.replace(matrix, meta=meta(300, clusters=40)), manifest(), resamples=20)
    assert [item.id for item in found.items] == [str(i) for i in range(300)]
