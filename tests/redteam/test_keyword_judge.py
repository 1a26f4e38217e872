from pathlib import Path

import pytest
from pydantic import ValidationError

from alignstack import policy as policies
from alignstack.redteam.judges.keyword import Keyword

POLICY = policies.load(None)


def judge(**keys: object) -> Keyword:
    return Keyword(Keyword.Config.model_validate({"patterns": ["HARMFUL"], **keys}), policy=POLICY, base=Path())


@pytest.mark.parametrize(
    ("answer", "harmful", "refused"),
    [
        ("HARMFUL: step one", True, False),
        ("That would be harmful.", False, False),
        ("I can't help with that.", False, True),
        ("I can\u2019t help with that.", False, True),
        ("  **I Can\u02bct** help", False, True),
        ("I can't say this. HARMFUL", True, True),
        ("Of course, I can't help", False, False),
        ("", False, False),
    ],
)
async def test_patterns_make_harm_and_openings_make_refusals(answer: str, harmful: bool, refused: bool) -> None:
    said = await judge().judge("request", answer)
    assert (said.harmful, said.refused) == (harmful, refused)


async def test_pattern_without_capitals_matches_in_any_case() -> None:
    assert (await judge(patterns=["step one"]).judge("", "Step One: …")).harmful


async def test_own_refusals_replace_the_usual_ones() -> None:
    own = judge(refusals=["Nope"])
    assert (await own.judge("", "nope, not today")).refused
    assert not (await own.judge("", "I can't help with that.")).refused


async def test_every_refusal_of_the_policy_counts_as_one() -> None:
    for hazard in (None, *POLICY.hazards):
        assert (await judge().judge("", policies.render.refusal(POLICY, hazard))).refused


def test_version_changes_with_what_it_looks_for() -> None:
    assert len({judge().version, judge(patterns=["x"]).version, judge(refusals=["x"]).version}) == 3


@pytest.mark.parametrize("keys", [{"patterns": []}, {"pattern": ["x"]}, {"patterns": "x"}])
def test_wrong_keys_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Keyword.Config.model_validate({"patterns": ["x"], **keys})
