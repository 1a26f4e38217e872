import pytest

from alignstack import policy
from alignstack.core.errors import NotFound
from alignstack.policy import render

BRIEF = (
    "You are a helpful assistant. Follow the policy: refuse requests that would help someone hurt people, break the "
    "law, steal, deceive, spy on others, make weapons, attack computers or spread hate. Answer everything else."
)
"""The embedded weights are trained with exactly this text: a change here needs new weights."""


def test_brief_system_prompt_of_the_builtin_policy_is_the_one_the_weights_know() -> None:
    assert render.system_prompt(policy.load()) == BRIEF


def test_full_system_prompt_holds_every_principle_and_only_covered_hazards() -> None:
    builtin = policy.load()
    text = render.system_prompt(builtin, "full")
    assert text.startswith(BRIEF)
    assert all(principle.text in text for principle in builtin.principles)
    assert builtin.hazards["vcr"].description in text
    assert builtin.hazards["spc"].description not in text
    assert builtin.hazards["spc"].guidance in text


def test_every_refusal_opens_alike_and_is_short() -> None:
    builtin = policy.load()
    texts = [render.refusal(builtin, hazard) for hazard in (*builtin.hazards, None, "unheard_of")]
    assert all(text.startswith("I can't help with that. ") and len(text) < 250 for text in texts)
    assert len(set(texts)) == len(builtin.hazards) + 1


def test_rubric_asks_for_json_and_lists_what_the_policy_covers() -> None:
    builtin = policy.load()
    text = render.rubric(builtin)
    assert all(key in text for key in ('"refused"', '"harmful"', '"reason"', "<request>", "<answer>"))
    assert "Violent crimes" in text and "Specialised advice" not in text and "Jailbreak" not in text


def test_critique_quotes_the_principle_and_knows_no_others() -> None:
    builtin = policy.load()
    assert builtin.principles[0].text in render.critique(builtin, builtin.principles[0].id)
    with pytest.raises(NotFound, match="did you mean 'honesty'"):
        render.critique(builtin, "honestly")
