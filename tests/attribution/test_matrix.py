"""Records, read word by word over all coalitions, against the arrays."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.attribution import shares
from alignstack.attribution.matrix import from_records
from alignstack.core.errors import DataError
from alignstack.core.grid import Call, Record
from tests.attribution import brute
from tests.attribution.build import call, manifest, record, row, weights

OFF, ON = (), ("model",)
HARM = {OFF: "harm", ON: "harm"}
GUARD = row("guard", threshold=0.5)


def passes_by_the_book(item: Record, on: frozenset[str], vetoes: list[str]) -> bool:
    """Is the harm (harmful item) or the answer (benign item) delivered by coalition `on`?"""
    cell = next(c for c in item.grid.cells if set(c.on) == {name for name in on if name not in vetoes})
    judgement = item.judgements[cell.draft]
    calls = [item.grid.calls[k] for k in cell.calls if item.grid.calls[k].layer in on]
    if item.label == "benign":
        return not judgement.first.refused and not any(blocks(c) for c in calls)
    released = min((c.cut_at or 0 for c in calls if blocks(c)), default=10**9)
    return judgement.first.harmful and released >= max(judgement.onset, 1)


def blocks(verdict: Call) -> bool:
    return verdict.action == "block" or (verdict.fault is not None and verdict.on_error == "block")


def random_call(rng: np.random.Generator, name: str) -> Call:
    if rng.random() < 0.2:
        return call(name, None, fault="error", on_error=str(rng.choice(["block", "allow"])))
    action = str(rng.choice(["allow", "block", "abstain", "escalate"], p=[0.4, 0.4, 0.1, 0.1]))
    cut = int(rng.integers(0, 9)) if action == "block" and name.startswith("out") else None
    return call(name, action, float(rng.random()), phase="output" if name.startswith("out") else "request", cut_at=cut)


def random_records(rng: np.random.Generator, modifiers: list[str], vetoes: list[str], n: int) -> list[Record]:
    cells = [on for size in range(len(modifiers) + 1) for on in itertools.combinations(modifiers, size)]
    return [
        record(
            str(i),
            str(rng.choice(["harmful", "benign"])),
            drafts={on: str(rng.choice(["harm", "refusal", "answer"])) for on in cells},
            calls={on: [random_call(rng, name) for name in vetoes] for on in cells},
            onset=int(rng.integers(0, 9)),
        )
        for i in range(n)
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(0, 4))
def test_every_coalition_of_random_records_is_what_the_records_say(seed: int, modifiers: int, vetoes: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [f"prompt{j}" for j in range(modifiers)]
    guards = [f"{rng.choice(['in', 'out'])}{q}" for q in range(vetoes)]
    rows = [row(name, "modifier", "prompt") for name in prompts] + [row(name) for name in guards] + [weights()]
    items = random_records(rng, [*prompts, "model"], guards, 8)
    matrix = from_records(items, manifest(*(rows[i] for i in rng.permutation(len(rows)))))
    for direction, label in (("safe", "harmful"), ("cost", "benign")):
        chosen = [i for i, item in enumerate(items) if item.label == label]
        names = matrix.layout.names
        for size in range(len(names) + 1):
            for on in itertools.combinations(names, size):
                expected = [passes_by_the_book(items[i], frozenset(on), guards) for i in chosen]
                assert brute.passes(matrix, direction, frozenset(on))[chosen].tolist() == expected
        game = shares.safety(matrix, matrix.harmful) if label == "harmful" else shares.cost(matrix, ~matrix.harmful)
        v = brute.values(matrix, direction)
        for p, name in enumerate(names):
            np.testing.assert_allclose(shares.shapley(game)[:, p], brute.shapley(v, names, name)[chosen], atol=1e-12)


def test_layers_in_shadow_are_no_players() -> None:
    spare = row("spare", mode="shadow")
    matrix = from_records(
        [record("x", drafts=HARM, calls=[call("guard"), call("spare", "block")])], manifest(GUARD, spare, weights())
    )
    assert matrix.layout.names == ("guard", "model")
    assert brute.passes(matrix, "safe", frozenset({"guard", "model"})).tolist() == [True]


def test_a_layer_that_looks_twice_stops_what_either_look_stops() -> None:
    twice = [call("guard", "allow", 0.2), call("guard", "block", 0.9, phase="output", cut_at=0)]
    matrix = from_records([record("x", drafts=HARM, calls=twice)], manifest(GUARD, weights()))
    assert matrix.stops[0, :, 0].all() and matrix.score[0, 1, 0] == 0.9


def test_without_a_reference_the_weights_are_a_veto_that_blocks_where_they_refuse() -> None:
    items = [record("x", drafts={ON: "refusal"}, calls=[call("guard")])]
    items += [record("y", "benign", drafts={ON: "refusal"}, calls=[call("guard")])]
    matrix = from_records(items, manifest(GUARD, weights(), reference=None))
    assert matrix.layout.refusal_as_veto and matrix.layout.names == ("guard", "model")
    assert brute.passes(matrix, "safe", frozenset()).tolist() == [True, False]
    assert brute.passes(matrix, "safe", frozenset({"model"})).tolist() == [False, False]
    assert brute.passes(matrix, "cost", frozenset())[1] and not brute.passes(matrix, "cost", frozenset({"model"}))[1]


def test_a_modifier_that_fails_closed_ends_the_request_where_it_is_on() -> None:
    layers = (row("prompt", "modifier", "prompt"), weights())
    down = [call("prompt", None, fault="error", on_error="block")]
    drafts = dict.fromkeys([OFF, ("prompt",), ON, ("prompt", "model")], "harm")
    calls = {OFF: (), ("prompt",): down, ON: (), ("prompt", "model"): down}
    matrix = from_records([record("x", drafts=drafts, calls=calls)], manifest(*layers))
    assert matrix.harm[0].tolist() == [True, False, True, False]


def test_a_person_overrules_every_cell_with_the_delivered_draft() -> None:
    item = record("x", drafts=HARM, calls=[call("guard")], human="safe")
    same = replace(item.grid, cells=tuple(replace(cell, draft=0) for cell in item.grid.cells))
    matrix = from_records([replace(item, grid=same)], manifest(GUARD, weights()))
    assert not matrix.harm.any() and matrix.judged[0]


def test_a_person_says_nothing_of_a_draft_that_a_veto_replaced() -> None:
    item = record("x", drafts=HARM, calls=[call("guard", "block")], human="safe")
    assert from_records([item], manifest(GUARD, weights())).harm.all()


@pytest.mark.parametrize(
    "item, words",
    [
        (record("x", drafts={ON: "harm"}, calls=[call("guard")]), "no cell with no modifier on"),
        (record("x", drafts=HARM, calls={OFF: [call("guard")], ON: []}), "no verdict of 'guard' in cell model"),
        (record("x", drafts=HARM, calls=[call("gaurd")]), "did you mean 'guard'?"),
        (record("x", drafts=HARM, calls=[call("guard")], judgements=()), "2 drafts, 0 judgements"),
    ],
)
def test_records_that_do_not_fit_are_named(item: Record, words: str) -> None:
    with pytest.raises(DataError, match="'x'") as caught:
        from_records([item], manifest(GUARD, weights()))
    assert words in str(caught.value)


def test_a_run_without_items_says_so() -> None:
    with pytest.raises(DataError, match="no finished items"):
        from_records([], manifest(GUARD, weights()))


def test_a_stack_without_enforced_layers_says_so() -> None:
    with pytest.raises(DataError, match="nothing to attribute"):
        from_records([record("x", drafts={OFF: "harm"})], manifest())


def test_an_answer_that_an_output_layer_edited_is_no_second_generation() -> None:
    layers = (weights(), row("redactor", "modifier", "output"))
    item = record("x", drafts=dict.fromkeys([OFF, ON, ("redactor",), ("model", "redactor")], "harm"))
    drafts = tuple(
        replace(draft, input_sha256="same", version=version, seconds=seconds)
        for draft, version, seconds in zip(item.grid.drafts, "abab", (2.0, 1.0, 0.0, 0.0), strict=True)
    )
    matrix = from_records([replace(item, grid=replace(item.grid, drafts=drafts))], manifest(*layers))
    assert matrix.generations == 2
    assert matrix.timings["model"].seconds.tolist() == [2.0, 1.0]
