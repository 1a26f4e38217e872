import base64
import codecs
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.core.layer import Phase, View
from alignstack.core.messages import Message, user
from alignstack.core.verdict import Span, Verdict
from alignstack.layers import keyword
from alignstack.layers.keyword import Keyword, KeywordConfig
from alignstack.policy.strict import problems


def layer(*patterns: str, phase: Phase | None = None, **keys: object) -> Keyword:
    config = KeywordConfig.model_validate({"patterns": patterns, **keys})
    return Keyword(config, name="words", phase=phase, hazards=None, policy=policy.load())


async def look(checked: Keyword, text: str) -> Verdict:
    return await checked.check(View(phase="request", messages=user(text)))


async def test_a_listed_phrase_is_blocked_and_marked() -> None:
    verdict = await look(layer("fishing mail"), "Write a Fishing Mail, a good fishing mail.")
    assert (verdict.action, verdict.score) == ("block", 1.0)
    assert verdict.spans == (Span(start=8, end=20), Span(start=29, end=41))


async def test_other_texts_score_zero() -> None:
    verdict = await look(layer("fishing mail"), "Write a mail about fishing.")
    assert (verdict.action, verdict.score, verdict.spans) == ("allow", 0.0, ())


async def test_all_user_turns_count_and_other_roles_do_not() -> None:
    first = View(phase="request", messages=(*user("say kumquat"), Message(role="assistant", content="no"), *user("ok")))
    answer = View(phase="request", messages=(Message(role="assistant", content="kumquat"), *user("hello")))
    checked = layer("kumquat")
    assert (await checked.check(first)).action == "block"
    assert (await checked.check(answer)).action == "allow"


async def test_in_the_output_phase_the_draft_is_read() -> None:
    view = View(phase="output", messages=user("hello"), draft="a kumquat for you")
    checked = layer("kumquat", phase="output")
    assert checked.info.phases == ("output",)
    assert (await checked.check(view)).action == "block"


@pytest.mark.parametrize(
    "text",
    [
        "please explain kum\u200bquat farming",
        "please explain kumqu\u0430t farming",
        "please explain \uff4b\uff55\uff4d\uff51\uff55\uff41\uff54 farming",
        "please decode this: " + base64.b64encode(b"tell me how to grow a kumquat at home").decode(),
        codecs.encode("tell me how to grow a kumquat at home", "rot13"),
    ],
    ids=["zero-width", "homoglyph", "full-width", "base64", "rot13"],
)
async def test_disguised_phrases_are_found_without_spans(text: str) -> None:
    verdict = await look(layer("kumquat"), text)
    assert (verdict.action, verdict.spans) == ("block", ())


async def test_case_counts_when_asked() -> None:
    checked = layer("IRA", case_sensitive=True)
    assert (await look(checked, "the IRA")).action == "block"
    assert (await look(checked, "Miranda and ira")).action == "allow"


async def test_whole_words_do_not_match_inside_others() -> None:
    checked = layer("ass", "C4", whole_word=True)
    assert (await look(checked, "a classic AC42")).action == "allow"
    assert (await look(checked, "what is c4?")).action == "block"


async def test_regular_expressions_keep_their_groups() -> None:
    checked = layer(r"(a)x\1", r"(?:\d{3}-){2}\d{4}", regex=True)
    assert (await look(checked, "call 555-123-4567")).action == "block"
    assert (await look(checked, "AXA")).action == "block"
    assert (await look(checked, "axb")).action == "allow"


async def test_literals_are_not_regular_expressions() -> None:
    assert (await look(layer("a.c (x"), "abc (x")).action == "allow"
    assert (await look(layer("a.c (x"), "see A.C (X")).action == "block"


def test_every_bad_regular_expression_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        KeywordConfig(patterns=("ok", "x(", "[z"), regex=True)
    message = str(problems(caught.value, "s.yaml", KeywordConfig, "layers[1]")[0])
    assert message.startswith("s.yaml: layers[1]: patterns[1] 'x(' is not a regular expression")
    assert "patterns[2] '[z'" in message


@pytest.mark.parametrize("patterns", [(), ("",)])
def test_patterns_that_match_nothing_or_everything_are_refused(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        KeywordConfig(patterns=patterns)


async def test_the_policy_decides_what_a_match_means() -> None:
    assert (await look(layer("pills", hazard="ncr"), "pills")).categories == {"ncr": 1.0}
    allowed = await look(layer("pills", hazard="spc"), "pills")
    assert (allowed.action, allowed.score, allowed.hazard) == ("allow", 1.0, "spc")
    assert layer("pills", hazard="ncr").info.scope.hazards == {"ncr"}


def test_an_unknown_hazard_and_a_wrong_phase_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        layer("x", hazard="vrc", phase="prompt")
    assert "did you mean 'vcr'" in str(caught.value) and "not 'prompt'" in str(caught.value)


def test_the_version_follows_what_changes_verdicts() -> None:
    assert layer("a").info.version == layer("a").info.version
    assert layer("a").info.version != layer("b").info.version
    assert layer("a", hazard="ncr").info.version != layer("a", hazard="spc").info.version


@given(st.text(), st.text(), st.text(min_size=1))
def test_spans_point_at_the_match_in_any_text(before: str, after: str, needle: str) -> None:
    text = before + needle + after
    spans = layer(needle)._spans(text, 0)
    assert spans
    for span in spans:
        assert keyword._lower(text[span.start : span.end]) == keyword._lower(needle)


@given(st.characters())
def test_lowering_keeps_the_length_of_every_character(character: str) -> None:
    assert len(keyword._lower(character)) == 1


def test_only_one_character_grows_when_lowered() -> None:
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if len(c.lower()) != 1] == ["\u0130"]


async def test_ten_megabytes_are_searched_in_seconds() -> None:
    words = [f"word{i}x" for i in range(200)]
    started = time.perf_counter()
    verdict = await look(layer("kumquat", *words), "hello there " * 850_000 + "kumquat")
    assert verdict.action == "block"
    assert time.perf_counter() - started < 20
