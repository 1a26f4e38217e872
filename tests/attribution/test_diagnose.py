"""For each diagnosis a scripted case that produces it, with the replay that shows it."""

import pytest

from alignstack.attribution.attribute import attribute
from alignstack.attribution.result import ItemResult
from tests.attribution.build import call, manifest, record, row, scope, weights

OFF, ON = (), ("model",)
HARM = {OFF: "harm", ON: "harm"}
ANSWERS = {OFF: "answer", ON: "answer"}
GUARD = row("guard", threshold=0.5, where="stack.yaml: layers[0]")
BOTH = (GUARD, weights())


def benign(n: int = 20, score: float = 0.0, **facts):
    return [record(f"b{i}", "benign", drafts=ANSWERS, calls=[call("guard", score=score, **facts)]) for i in range(n)]


def first_item(*records, layers=BOTH, **facts) -> ItemResult:
    return attribute(records, manifest(*layers, **facts), resamples=10).items[0]


def changes(item: ItemResult) -> str:
    return "; ".join(f"{fact.change} → {fact.outcome}" for fact in item.evidence)


def test_judges_that_disagree_make_the_harm_disputed() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", score=0.4)], disputed=True), *benign())
    assert (item.outcome, item.diagnosis, item.side, item.fixes) == ("harm_delivered", "judge_disputed", None, ())
    assert "judges disagree" in changes(item)


def test_a_person_who_finds_harm_overrules_the_judge() -> None:
    drafts = {OFF: "harm", ON: "answer"}
    item = first_item(record("x", drafts=drafts, calls=[call("guard", score=0.4)], human="harmful"), *benign())
    assert (item.outcome, item.diagnosis) == ("harm_delivered", "judge_disputed")
    assert "a person read the delivered answer → harmful; the first judge said safe" in changes(item)


def test_a_person_who_finds_no_harm_clears_the_stack() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", score=0.4)], human="safe"), *benign())
    assert (item.outcome, item.diagnosis) == ("correct_answer", None)


@pytest.mark.parametrize("fault, word", [("error", "failed, and failed open"), ("timeout", "timed out")])
def test_a_layer_that_failed_open_is_down_and_replay_says_what_it_would_have_done(fault: str, word: str) -> None:
    down = call("guard", None, fault=fault, on_error="allow")
    item = first_item(record("x", drafts=HARM, calls=[down], evidence=(call("guard", "block", 0.9),)), *benign())
    assert (item.diagnosis, item.layer, item.side) == ("layer_down", "guard", "inference")
    assert word in changes(item) and "it would have caught this" in changes(item)
    assert any("on_error: block" in fix.text for fix in item.fixes)


def test_a_layer_that_failed_closed_stops_the_harm_and_nobody_meant_to() -> None:
    down = call("guard", None, fault="timeout", on_error="block")
    item = first_item(record("x", drafts=HARM, calls=[down]), *benign())
    assert (item.outcome, item.blockers, item.but_for, item.diagnosis) == (
        "unavailable",
        ("guard",),
        (("guard",),),
        None,
    )


def test_a_modifier_that_creates_harm_introduced_it() -> None:
    layers = (GUARD, row("prompt", "modifier", "prompt", where="stack.yaml: layers[1]"), weights())
    drafts = {OFF: "refusal", ("prompt",): "harm", ON: "refusal", ("prompt", "model"): "harm"}
    item = first_item(record("x", drafts=drafts, calls=[call("guard", score=0.4)]), layers=layers)
    assert (item.diagnosis, item.layer, item.side) == ("introduced", "prompt", "inference")
    assert "prompt switched off, all else on → safe" in changes(item)


def test_weights_that_create_harm_are_a_training_failure() -> None:
    drafts = {OFF: "refusal", ON: "harm"}
    item = first_item(record("x", drafts=drafts, calls=[call("guard", score=0.4)]), *benign())
    assert (item.diagnosis, item.layer, item.side) == ("introduced", "model", "training")


def test_a_modifier_that_hides_harm_from_a_veto_introduced_it() -> None:
    layers = (row("prompt", "modifier", "prompt"), weights(), row("out", phase="output"))
    everything, missed = [call("out", "block", 0.9)], [call("out", score=0.1)]
    drafts = dict.fromkeys([OFF, ("prompt",), ON, ("prompt", "model")], "harm")
    calls = {OFF: missed, ("prompt",): missed, ON: everything, ("prompt", "model"): missed}
    item = first_item(record("x", drafts=drafts, calls=calls), layers=layers)
    assert (item.diagnosis, item.layer) == ("introduced", "prompt")


def test_a_reference_that_is_down_does_not_make_the_weights_guilty() -> None:
    drafts = {OFF: "unavailable", ON: "harm"}
    item = first_item(record("x", drafts=drafts, calls=[call("guard", score=0.0)]), *benign())
    assert (item.outcome, item.diagnosis) == ("harm_delivered", "blind")


def test_a_cut_after_the_harm_began_is_late() -> None:
    layers = (weights(), row("out", phase="output", where="stack.yaml: layers[2]"))
    cut = call("out", "block", 0.9, phase="output", cut_at=12)
    item = first_item(record("x", drafts=HARM, calls=[cut], onset=5), layers=layers)
    assert (item.outcome, item.diagnosis, item.layer) == ("harm_partial", "late_cut", "out")
    assert "flagged after 12 tokens" in changes(item) and "from token 5" in changes(item)


def test_a_cut_before_the_harm_began_is_a_refusal() -> None:
    cut = call("out", "block", 0.9, phase="output", cut_at=4)
    item = first_item(record("x", drafts=HARM, calls=[cut], onset=5), layers=(weights(), row("out", phase="output")))
    assert (item.outcome, item.but_for) == ("correct_refusal", (("out",),))


def test_a_hazard_in_nobodys_scope_is_a_policy_gap() -> None:
    layers = (row("guard", threshold=0.5, scope=scope("vcr")), weights(scope=scope("vcr")))
    item = first_item(record("x", drafts=HARM, calls=[call("guard", "abstain")], hazard="prv"), layers=layers)
    assert (item.diagnosis, item.side) == ("policy_gap", "inference")
    assert "'prv'" in changes(item) and any("'prv'" in fix.text for fix in item.fixes)


def test_a_rate_limit_covers_no_hazard() -> None:
    layers = (row("limit", scope=scope()), weights(scope=scope("vcr")))
    item = first_item(record("x", drafts=HARM, calls=[call("limit", "abstain")], hazard="prv"), layers=layers)
    assert item.diagnosis == "policy_gap"


def test_a_veto_that_blocks_the_plain_evidence_was_kept_from_it() -> None:
    seen = record("x", drafts=HARM, calls=[call("guard", score=0.1)], evidence=(call("guard", "block", 0.9),))
    item = first_item(seen, *benign(score=0.2))
    assert (item.diagnosis, item.layer, item.side) == ("evidence_withheld", "guard", "inference")
    assert "guard replayed on the plain evidence → it blocks" in changes(item)


def test_a_threshold_within_budget_is_the_fix() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", score=0.4)]), *benign(score=0.1))
    assert (item.diagnosis, item.layer, item.side) == ("threshold", "guard", "inference")
    assert item.cheapest is not None
    assert (item.cheapest.threshold, item.cheapest.extra_refusals, item.cheapest.rate.n) == (0.4, 0, 20)
    assert "stack.yaml: layers[0]: `threshold: 0.4` in place of 0.5" in item.fixes[1].text


def test_a_threshold_beyond_budget_leaves_the_layer_blind() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", score=0.4)]), *benign(score=0.45))
    assert (item.diagnosis, item.layer, item.side) == ("blind", "guard", "training")
    assert item.cheapest is not None and item.cheapest.extra_refusals == 20
    assert "guard on the bytes it saw → passed with score 0.4 (threshold 0.5)" in changes(item)
    assert "over budget" in changes(item)


def test_no_threshold_reaches_a_score_of_zero() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", score=0.0)]), *benign())
    assert (item.diagnosis, item.cheapest) == ("blind", None)


def test_weights_are_blind_when_no_veto_looked() -> None:
    item = first_item(record("x", drafts=HARM, calls=[call("guard", "abstain")]), *benign())
    assert (item.diagnosis, item.layer, item.side) == ("blind", "model", "training")


def test_nobody_could_look_and_the_weights_have_no_reference_so_it_is_unknown() -> None:
    item = first_item(record("x", drafts={ON: "harm"}, calls=[call("guard", "abstain")]), reference=None)
    assert (item.diagnosis, item.side, item.layer) == ("unknown", None, None)
    assert "no opinion from guard" in changes(item)


def test_prices_rank_shadow_layers_too_and_count_only_new_refusals() -> None:
    layers = (GUARD, row("spare", mode="shadow", threshold=0.9), weights())
    miss = record("x", drafts=HARM, calls=[call("guard", score=0.4), call("spare", score=0.3)])
    others = [
        record(f"b{i}", "benign", drafts=ANSWERS, calls=[call("guard", action, g), call("spare", score=s)])
        for i, (action, g, s) in enumerate(
            [("allow", 0.45, 0.1), ("allow", 0.41, 0.1), ("block", 0.8, 0.9), ("allow", 0.1, 0.3), ("allow", 0.0, 0.0)]
        )
    ]
    item = first_item(miss, *others, layers=layers)
    assert [(p.layer, p.shadow, p.threshold, p.extra_refusals) for p in item.prices] == [
        ("spare", True, 0.3, 1),
        ("guard", False, 0.4, 2),
    ]


def test_a_refusal_by_one_veto_has_a_sole_blocker() -> None:
    item = first_item(record("x", "benign", drafts=ANSWERS, calls=[call("guard", "block", 0.7)]))
    assert (item.outcome, item.diagnosis, item.layer, item.but_for) == (
        "false_refusal",
        "sole_blocker",
        "guard",
        (("guard",),),
    )
    assert "guard switched off, all else on → answered" in changes(item)


def test_a_refusal_by_two_is_joint_and_names_the_set_to_remove() -> None:
    drafts = {OFF: "answer", ON: "refusal"}
    item = first_item(record("x", "benign", drafts=drafts, calls=[call("guard", "block", 0.7)]))
    assert (item.diagnosis, item.first, item.blockers) == ("joint", "guard", ("guard", "model"))
    assert item.but_for == (("guard", "model"),)
    assert "guard, model switched off → answered" in changes(item)


def test_weights_that_refuse_alone_are_a_training_failure() -> None:
    drafts = {OFF: "answer", ON: "refusal"}
    item = first_item(record("x", "benign", drafts=drafts, calls=[call("guard", score=0.1)]))
    assert (item.diagnosis, item.layer, item.side) == ("model_refused", "model", "training")
    assert "the weights switched off, all else on → answered" in changes(item)


def test_a_prompt_that_makes_the_weights_refuse_introduced_it() -> None:
    layers = (row("prompt", "modifier", "prompt"), weights())
    drafts = {OFF: "answer", ("prompt",): "answer", ON: "answer", ("prompt", "model"): "refusal"}
    item = first_item(record("x", "benign", drafts=drafts), layers=layers)
    assert (item.diagnosis, item.layer, item.side) == ("introduced", "prompt", "inference")


def test_judges_that_disagree_about_a_refusal_make_it_disputed() -> None:
    item = first_item(
        record("x", "benign", drafts={OFF: "answer", ON: "refusal"}, calls=[call("guard", score=0.1)], disputed=True)
    )
    assert (item.outcome, item.diagnosis) == ("false_refusal", "judge_disputed")


def test_a_benign_request_lost_to_a_fault_is_unavailable() -> None:
    down = call("guard", None, fault="error", on_error="block")
    item = first_item(record("x", "benign", drafts=ANSWERS, calls=[down]))
    assert (item.outcome, item.diagnosis, item.layer) == ("unavailable", "unavailable", "guard")


def test_weights_that_answered_are_not_to_be_trained_because_of_a_word_list() -> None:
    words = row("words", where="stack.yaml: layers[0]")
    item = first_item(record("x", "benign", drafts=ANSWERS, calls=[call("words", "block")]), layers=(words, weights()))
    assert item.diagnosis == "sole_blocker"
    assert [(fix.side, fix.layer) for fix in item.fixes] == [("inference", "words")]


def test_the_advice_about_a_silent_model_is_not_that_about_a_layer() -> None:
    silent = record("x", "benign", drafts={OFF: "answer", ON: "unavailable"}, calls=[call("guard")])
    down = record("y", "benign", drafts=ANSWERS, calls=[call("guard", None, fault="error", on_error="block")])
    model, layer = attribute([silent, down], manifest(*BOTH), resamples=10).items
    assert (model.outcome, layer.outcome) == ("unavailable", "unavailable")
    assert "`alignstack audit --resume`" in model.fixes[0].text and "timeout_ms" not in model.fixes[0].text
    assert layer.fixes[0].text.startswith("stack.yaml: layers[0]: a longer `timeout_ms`")


def test_an_empty_answer_that_the_weights_always_give_is_unknown() -> None:
    blank = {OFF: "blank", ON: "blank"}
    item = first_item(record("x", "benign", drafts=blank, calls=[call("guard", score=0.1)]))
    assert (item.outcome, item.diagnosis) == ("degraded", "unknown")


def test_a_redactor_that_ruins_an_answer_introduced_it() -> None:
    layers = (row("redactor", "modifier", "output"), weights())
    drafts = {OFF: "answer", ("redactor",): "blank", ON: "answer", ("redactor", "model"): "blank"}
    item = first_item(record("x", "benign", drafts=drafts), layers=layers)
    assert (item.outcome, item.diagnosis, item.layer) == ("degraded", "introduced", "redactor")


def test_draws_that_end_differently_are_stochastic() -> None:
    draws = [
        record(f"x{i}", drafts={OFF: "harm", ON: kind}, draw=i, plain="x", cluster="x", calls=[call("guard")])
        for i, kind in enumerate(["harm", "refusal"])
    ]
    result = attribute([*draws, *benign()], manifest(GUARD, weights()), resamples=10)
    assert [item.stochastic for item in result.items[:3]] == [True, True, False]


OTHER = row("other", threshold=0.5, scope=scope("vcr"))
"""A layer that does not answer for the hazard `prv`."""


def out_of_scope(verdict, **facts) -> ItemResult:
    item = record("x", drafts=HARM, calls=[call("guard", score=0.0), verdict], hazard="prv", **facts)
    others = [
        record(f"b{i}", "benign", drafts=ANSWERS, calls=[call("guard", score=0.0), call("other", score=0.0)])
        for i in range(20)
    ]
    return first_item(item, *others, layers=(GUARD, OTHER, weights()))


def test_a_layer_down_that_does_not_cover_the_hazard_is_not_to_blame() -> None:
    item = out_of_scope(call("other", None, fault="error", on_error="allow"))
    assert (item.diagnosis, item.layer) == ("blind", "guard")


def test_evidence_withheld_from_a_layer_that_does_not_cover_the_hazard_is_no_diagnosis() -> None:
    item = out_of_scope(call("other", score=0.0), evidence=(call("other", "block", 0.9),))
    assert (item.diagnosis, item.layer) == ("blind", "guard")


def test_a_layer_that_does_not_cover_the_hazard_has_no_price() -> None:
    item = out_of_scope(call("other", score=0.4))
    assert (item.diagnosis, item.layer, item.cheapest) == ("blind", "guard", None)


def test_a_reference_ended_by_a_fault_does_not_make_the_weights_guilty() -> None:
    layers = (row("redactor", "modifier", "output"), weights())
    down, fine = [call("redactor", None, fault="error", on_error="block")], [call("redactor", "modify")]
    drafts = dict.fromkeys([OFF, ("redactor",), ON, ("redactor", "model")], "harm")
    calls = {OFF: (), ("redactor",): down, ON: (), ("redactor", "model"): fine}
    item = first_item(record("x", drafts=drafts, calls=calls), layers=layers)
    assert (item.diagnosis, item.layer) == ("blind", "model")


def test_a_veto_that_failed_closed_without_the_modifier_is_no_proof_against_it() -> None:
    layers = (row("prompt", "modifier", "prompt"), weights(), row("out", phase="output"))
    down, missed = [call("out", None, fault="error", on_error="block")], [call("out", score=0.0)]
    drafts = dict.fromkeys([OFF, ("prompt",), ON, ("prompt", "model")], "harm")
    calls = {OFF: missed, ("prompt",): missed, ON: down, ("prompt", "model"): missed}
    item = first_item(record("x", drafts=drafts, calls=calls), layers=layers)
    assert (item.diagnosis, item.layer) == ("blind", "out")


def test_the_price_of_answering_a_refused_request_is_the_harm_let_through() -> None:
    refused = record("x", "benign", drafts=ANSWERS, calls=[call("guard", "block", 0.7)])
    caught = [record(f"h{i}", drafts=HARM, calls=[call("guard", "block", s)]) for i, s in enumerate([0.6, 0.7, 0.9])]
    item = first_item(refused, *caught)
    assert "lets 2 more of 3 harmful requests through" in item.fixes[1].text


def test_a_layer_in_shadow_that_blocks_without_a_score_can_be_enforced_as_it_is() -> None:
    layers = (GUARD, row("spare", mode="shadow"), weights())
    miss = record("x", drafts=HARM, calls=[call("guard", score=0.0), call("spare", "block")])
    others = [
        record(
            f"b{i}",
            "benign",
            drafts=ANSWERS,
            calls=[call("guard", score=0.0), call("spare", "block" if i == 0 else "allow")],
        )
        for i in range(100)
    ]
    item = first_item(miss, *others, layers=layers)
    assert (item.diagnosis, item.layer) == ("threshold", "spare")
    assert item.cheapest is not None and (item.cheapest.threshold, item.cheapest.extra_refusals) == (None, 1)
    assert "spare enforced as it is" in changes(item)


def test_the_layer_that_came_closest_is_the_blind_one() -> None:
    layers = (GUARD, row("near", threshold=0.9), weights())
    calls = [call("guard", score=0.1), call("near", score=0.3)]
    others = [record(f"b{i}", "benign", drafts=ANSWERS, calls=calls) for i in range(5)]
    item = first_item(record("x", drafts=HARM, calls=calls), *others, layers=layers)
    assert (item.diagnosis, item.layer) == ("blind", "near")


def test_every_failure_has_evidence_and_a_fix_on_the_side_it_names() -> None:
    items = [record("x", drafts=HARM, calls=[call("guard", score=0.4)]), *benign(score=0.45)]
    items += [record("y", "benign", drafts=ANSWERS, calls=[call("guard", "block", 0.9)])]
    items += [record("z", "benign", drafts={OFF: "answer", ON: "refusal"}, calls=[call("guard")])]
    for item in attribute(items, manifest(*BOTH), resamples=10).items:
        if item.diagnosis is not None:
            assert item.evidence and {fix.side for fix in item.fixes} == {"training", "inference"}


@pytest.mark.parametrize("extra, diagnosis", [(0, "threshold"), (2, "threshold"), (3, "blind")])
def test_the_budget_is_a_share_of_the_benign_items(extra: int, diagnosis: str) -> None:
    items = [*benign(100 - extra, score=0.1), *benign(extra, score=0.45)]
    items = [record(f"b{i}", "benign", drafts=ANSWERS, calls=item.grid.calls[:1]) for i, item in enumerate(items)]
    assert first_item(record("x", drafts=HARM, calls=[call("guard", score=0.4)]), *items).diagnosis == diagnosis


def test_a_word_list_that_refuses_alone_is_to_be_narrowed_not_to_be_given_a_threshold() -> None:
    refused = record("b", "benign", drafts=ANSWERS, calls=[call("words", "block", 1.0)])
    item = first_item(refused, layers=(row("words", where="stack.yaml: layers[0]"), weights()))
    assert item.diagnosis == "sole_blocker"
    assert [fix.text for fix in item.fixes] == ["stack.yaml: layers[0]: narrow what it matches"]
