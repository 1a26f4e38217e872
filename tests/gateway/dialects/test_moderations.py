"""Against the official SDK's types and the built-in policy."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import ModerationCreateResponse

from alignstack.core.events import LayerError, LayerEvent, Mode, OnError
from alignstack.core.layer import Phase
from alignstack.core.verdict import Verdict
from alignstack.gateway.call import Refused
from alignstack.gateway.dialects import moderations
from alignstack.gateway.dialects.moderations import OPENAI_NAMES, Question, Scored, scored
from alignstack.policy import load

POLICY = load()


def decode(given: Any) -> Question:
    return moderations.decode(json.dumps({"input": given, "model": "omni-moderation-latest"}).encode())


def whole(*results: Scored) -> ModerationCreateResponse:
    body = moderations.whole(results, id="abc", model="tiny", policy=POLICY)
    return ModerationCreateResponse.model_validate_json(body, strict=True)


def said(verdict: Verdict, *, mode: Mode = "enforce", phase: Phase = "request") -> LayerEvent:
    return LayerEvent(layer="l", phase=phase, mode=mode, verdict=verdict, version="1", input_sha256="")


def crashed(on_error: OnError, mode: Mode = "enforce") -> LayerError:
    return LayerError(
        layer="l",
        phase="request",
        mode=mode,
        fault="error",
        on_error=on_error,
        message="",
        version="1",
        input_sha256="",
    )


class TestDecode:
    def test_a_text_is_one_input(self) -> None:
        question = decode("hi")
        assert [[m.content for m in turns] for turns in question.inputs] == [["hi"]]
        assert question.model == "omni-moderation-latest"

    def test_each_text_of_a_list_is_an_input(self) -> None:
        assert [turns[0].content for turns in decode(["a", "", "c"]).inputs] == ["a", "", "c"]

    def test_parts_are_one_input_and_images_are_said_to_be_unread(self) -> None:
        (turns,) = decode(
            [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "data:,"}},
                {"type": "text", "text": "b"},
            ]
        ).inputs
        assert [(m.role, m.content, m.media) for m in turns] == [("user", "a\nb", ("image_url",))]

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            (None, "input"),
            (5, "input"),
            ([], "input"),
            (["a"] * 129, "input"),
            ([5], "input[0]"),
            (["a", {"type": "text", "text": "b"}], "input"),
            ([{"type": "text"}], "input[0].text"),
            ([{"type": "video"}], "input[0].type"),
            ([{"text": "a"}], "input[0].type"),
        ],
    )
    def test_the_wrong_key_is_named(self, given: Any, param: str) -> None:
        with pytest.raises(Refused) as caught:
            decode(given)
        assert (caught.value.status, caught.value.param) == (400, param)

    @settings(max_examples=200, deadline=None)
    @given(
        st.binary()
        | st.fixed_dictionaries({"input": st.text() | st.lists(st.text() | st.integers() | st.dictionaries(
            st.sampled_from(["type", "text"]), st.text() | st.sampled_from(["text", "image_url"]) | st.none()))}
        ).map(lambda body: json.dumps(body).encode())
    )  # fmt: skip
    def test_any_body_is_read_or_refused(self, body: bytes) -> None:
        try:
            assert moderations.decode(body).inputs
        except Refused as problem:
            assert problem.status == 400


class TestScored:
    def test_the_highest_score_of_all_layers_counts(self) -> None:
        result = scored(
            [
                said(Verdict(action="allow", score=0.3, hazard="vcr")),
                said(Verdict(action="allow", categories={"vcr": 0.4, "ncr": 0.1})),
                said(Verdict(action="allow", score=0.2, hazard="vcr")),
            ]
        )
        assert (result.scores, result.flagged, result.looked) == ({"vcr": 0.4, "ncr": 0.1}, False, True)

    def test_a_block_flags_its_hazard_and_those_above_the_threshold(self) -> None:
        verdict = Verdict(action="block", hazard="vcr", categories={"ncr": 0.7, "ssh": 0.2}, threshold=0.5)
        result = scored([said(verdict)])
        assert (result.flagged, result.hazards) == (True, frozenset({"vcr", "ncr"}))
        assert result.scores["vcr"] == 1.0

    def test_a_shadow_scores_and_flags_only_when_asked_to(self) -> None:
        shadow = said(Verdict(action="block", hazard="vcr", score=0.9), mode="shadow")
        assert (scored([shadow]).flagged, scored([shadow]).scores) == (False, {"vcr": 0.9})
        assert scored([shadow], shadows=True).flagged

    @pytest.mark.parametrize(
        ("on_error", "mode", "flagged"),
        [("block", "enforce", True), ("allow", "enforce", False), ("block", "shadow", False)],
    )
    def test_a_crash_flags_when_it_would_block(self, on_error: OnError, mode: Mode, flagged: bool) -> None:
        result = scored([crashed(on_error, mode)])
        assert (result.flagged, result.hazards, result.looked) == (flagged, frozenset(), False)

    def test_a_layer_that_abstained_did_not_look(self) -> None:
        assert not scored([said(Verdict(action="abstain"))]).looked

    def test_other_phases_do_not_count(self) -> None:
        assert scored([said(Verdict(action="block", hazard="vcr"), phase="output")]) == Scored()


class TestWhole:
    def test_openai_and_the_policy_each_find_their_names(self) -> None:
        (result,) = whole(Scored(scores={"ssh": 0.8}, flagged=True, hazards=frozenset({"ssh"}))).results
        assert result.flagged
        flagged = result.categories.model_dump(by_alias=True)
        assert {name for name, value in flagged.items() if value} == {
            "ssh",
            "self-harm",
            "self-harm/intent",
            "self-harm/instructions",
        }
        assert set(flagged) == {*POLICY.hazards, *OPENAI_NAMES}
        scores = result.category_scores.model_dump(by_alias=True)
        assert (scores["ssh"], scores["self-harm"], scores["hate"]) == (0.8, 0.8, 0.0)
        assert result.category_applied_input_types.model_dump(by_alias=True)["hate"] == ["text"]

    def test_a_name_that_belongs_to_several_hazards_takes_the_worst_of_each(self) -> None:
        body = Scored(scores={"vcr": 0.2, "iwp": 0.6}, flagged=True, hazards=frozenset({"vcr"}))
        (result,) = whole(body).results
        assert result.categories.illicit_violent is True
        assert result.category_scores.illicit_violent == 0.6

    def test_a_block_without_a_hazard_flags_no_category(self) -> None:
        (result,) = whole(Scored(flagged=True)).results
        assert result.flagged
        assert not any(result.categories.model_dump().values())

    def test_there_is_one_result_for_each_input(self) -> None:
        response = whole(Scored(), Scored(flagged=True))
        assert (response.id, response.model) == ("modr-abc", "tiny")
        assert [result.flagged for result in response.results] == [False, True]
