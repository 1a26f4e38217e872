"""Whatever bytes and texts come, readers and judges end in a result or in an error of ours."""

import json
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.core.errors import DataError, Unavailable
from alignstack.redteam import suites
from alignstack.redteam.judges.compliance import opinion
from alignstack.redteam.judges.rubric import verdict
from alignstack.redteam.plan import find_attacks

ANY_TEXT = st.text(st.characters(), max_size=300)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "text", "messages", "label", "role", "content", "plain"]), inner)
    ),
    max_leaves=12,
)
PACKED = st.sampled_from(["s.jsonl", "s.jsonl.gz", "s.jsonl.zst"])


def read(raw: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            assert suites.read(path)
        except DataError as error:
            assert name in str(error)


@given(st.binary(max_size=300), PACKED)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_suite_or_an_error(raw: bytes, name: str) -> None:
    read(raw, name)


@given(st.lists(JSONISH, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_suite_or_an_error(values: list[object]) -> None:
    read("\n".join(json.dumps(value) for value in values).encode(), "s.jsonl")


@given(ANY_TEXT, ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_any_answer_gets_an_opinion_and_never_two(request: str, answer: str) -> None:
    said = opinion(request, answer)
    assert not (said.harmful and said.refused)


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_any_reply_of_a_judge_is_a_verdict_or_unavailable(said: str) -> None:
    try:
        verdict(said)
    except Unavailable as error:
        assert "no verdict" in str(error)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_any_text_can_be_attacked(text: str, seed: int) -> None:
    for attack in find_attacks(["base64", "leetspeak", "past_tense", "prefix_injection", "role_play"]).values():
        assert attack(text, random.Random(seed)) == attack(text, random.Random(seed))
