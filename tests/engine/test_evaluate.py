"""Evaluate-all: everybody speaks, nothing is asked twice, faults and cuts are written down."""

import asyncio
from dataclasses import replace

import pytest

from alignstack.core.grid import Call, Grid
from alignstack.core.layer import Scope
from alignstack.core.messages import Message, user
from alignstack.core.verdict import Verdict
from alignstack.engine.evaluate import check_text, evaluate
from alignstack.engine.memo import Memo
from alignstack.engine.outcomes import outcome
from alignstack.engine.stack import Stack
from tests.engine.parts import CLOCK, REFUSAL, Rule, Says, allow, block, crash, echo, flags, place, says, stack


def prompt(name: str = "prompt", text: str = "be good") -> Rule:
    def rule(view: object) -> Verdict:
        return Verdict(action="modify", messages=(Message(role="system", content=text), *view.messages))

    return Rule(name, rule, phase="prompt", kind="modifier")


async def grid_of(built: Stack, text: str = "hi", **more: object) -> Grid:
    return await evaluate(built, user(text), clock=CLOCK, **more)


def call(grid: Grid, layer: str) -> Call:
    (found,) = [call for call in grid.calls if call.layer == layer]
    return found


async def test_everybody_speaks_even_after_a_block_and_in_shadow() -> None:
    built = stack(Rule("a", block), place(Rule("b", block), mode="shadow"), Rule("out", flags("fin"), phase="output"))
    grid = await grid_of(built)
    assert [(c.layer, c.action) for c in grid.calls] == [("a", "block"), ("b", "block"), ("out", "block")]


async def test_cells_are_the_subsets_of_the_enforced_modifiers() -> None:
    built = stack(prompt("p"), place(prompt("s"), mode="shadow"), reference=says("base", version="0"))
    grid = await grid_of(built)
    assert [cell.on for cell in grid.cells] == [(), ("model",), ("p",), ("p", "model")]
    assert {c.layer for c in grid.calls} == {"p", "s"}


async def test_without_a_reference_the_weights_are_always_on() -> None:
    grid = await grid_of(stack(prompt("p")))
    assert [cell.on for cell in grid.cells] == [("model",), ("p", "model")]


async def test_a_shadow_modifier_does_not_change_what_the_model_sees() -> None:
    model = Says(echo)
    await grid_of(stack(place(prompt(), mode="shadow"), model=model))
    assert model.asked == [user("hi")]


async def test_a_modifier_that_changes_nothing_costs_no_generation() -> None:
    model = Says(echo)
    built = stack(Rule("idle", allow, phase="prompt", kind="modifier"), prompt(), model=model)
    grid = await grid_of(built)
    assert (len(grid.cells), len(grid.drafts), len(model.asked)) == (4, 2, 2)


async def test_a_veto_is_asked_once_per_distinct_input() -> None:
    veto = Rule("in", allow)
    await grid_of(stack(veto, prompt("p"), prompt("q"), reference=says("base", version="0")))
    assert len(veto.seen) == 1


async def test_concurrent_evaluations_share_calls_and_generations() -> None:
    veto, model, memo = Rule("in", allow, delay=0.01), Says(echo, delay=0.005), Memo()
    built = stack(veto, model=model)
    grids = await asyncio.gather(*(grid_of(built, memo=memo) for _ in range(5)))
    assert len(veto.seen) == len(model.asked) == 1
    assert all(grid == grids[0] for grid in grids)


async def test_another_seed_is_another_draft() -> None:
    model, memo = Says(echo), Memo()
    built = stack(model=model)
    for seed in (1, 2, 1):
        await grid_of(built, memo=memo, seed=seed)
    assert len(model.asked) == 2


async def test_layers_with_a_memory_of_callers_are_told_that_it_is_an_audit() -> None:
    limit = Rule("limit", lambda v: Verdict(action="abstain" if v.audit else "block"), stateful=True)
    memo = Memo()
    built = stack(limit)
    for _ in range(2):
        assert call(await grid_of(built, memo=memo), "limit").action == "abstain"
    assert len(limit.seen) == 2


@pytest.mark.parametrize(("on_error", "status"), [("block", "blocked"), ("allow", "delivered")])
async def test_faults_are_calls_with_on_error(on_error: str, status: str) -> None:
    built = stack(
        place(Rule("crash", crash), on_error=on_error),
        place(Rule("late", allow, delay=5), timeout_s=0.02, on_error=on_error),
    )
    grid = await grid_of(built)
    assert (call(grid, "crash").action, call(grid, "crash").fault) == (None, "error")
    assert call(grid, "late").fault == "timeout"
    assert outcome(grid, built.enforced, REFUSAL).status == status


async def test_a_fault_is_shared_by_all_cells_and_not_remembered() -> None:
    layer, memo = Rule("in", crash), Memo()
    built = stack(layer, prompt(), reference=says("base", version="0"))
    for runs in (1, 2):
        await grid_of(built, memo=memo)
        assert len(layer.seen) == runs


async def test_an_unavailable_model_is_a_draft_and_not_checked() -> None:
    out = Rule("out", allow, phase="output")
    grid = await grid_of(stack(out, model=says("fine", fails_after=2)))
    (draft,) = grid.drafts
    assert (draft.finish, draft.text, draft.message) == ("unavailable", "", "dropped the stream")
    assert out.seen == []


async def test_streaming_notes_where_tokens_end_and_what_had_left_at_the_first_flag() -> None:
    out, shadow = Rule("out", flags("e"), phase="output"), Rule("first", flags("a"), phase="output")
    built = stack(out, place(shadow, mode="shadow"), model=says("abcdefgh"), streaming=True, window=2)
    grid = await grid_of(built)
    assert grid.drafts[0].ends == tuple(range(1, 9))
    assert (call(grid, "out").cut_at, call(grid, "first").cut_at) == (3, 0)
    assert outcome(grid, built.enforced, REFUSAL).delivered == "abc"


async def test_without_streaming_a_block_leaves_nothing() -> None:
    grid = await grid_of(stack(Rule("out", flags("e"), phase="output")))
    assert grid.drafts[0].ends == ()
    assert call(grid, "out").cut_at == 0


async def test_the_score_of_a_streamed_call_is_the_highest_of_its_looks() -> None:
    def rule(view: object) -> Verdict:
        return Verdict(action="allow", score={1: 0.2, 3: 0.9, 5: 0.1}[len(view.text)])

    built = stack(Rule("out", rule, phase="output"), model=says("abcde"), streaming=True, window=2)
    found = call(await grid_of(built), "out")
    assert (found.score, found.action, found.cut_at) == (0.9, "allow", None)


async def test_an_output_modifier_makes_a_draft_of_its_own() -> None:
    redact = Rule("redact", lambda v: Verdict(action="modify", text="[gone]"), phase="output", kind="modifier")
    grid = await grid_of(stack(redact))
    assert [draft.text for draft in grid.drafts] == ["fine", "[gone]"]
    assert grid.drafts[0].input_sha256 == grid.drafts[1].input_sha256


async def test_evidence_is_shown_whole_and_with_time_enough() -> None:
    layer = Rule("in", flags("secret"), delay=0.05, scope=Scope(max_chars=6))
    placed = place(layer, timeout_s=0.01)
    assert call(await grid_of(stack(placed), "a long secret"), "in").fault == "timeout"
    assert call(await grid_of(stack(replace(placed, timeout_s=1)), "a long secret"), "in").action == "allow"
    assert (await check_text(placed, "a long secret", clock=CLOCK)).action == "block"


async def test_evidence_for_an_output_layer_is_a_draft() -> None:
    out = Rule("out", flags("secret"), phase="output")
    found = await check_text(place(out), "the secret", clock=CLOCK, messages=user("tell me"))
    assert (found.action, found.phase) == ("block", "output")
    assert out.seen[0].messages == user("tell me")
