"""The compiled scores are numpy's scores."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.kernels.hashed_linear import STAMPS, most_harmful
from alignstack.layers import classifier
from alignstack.redteam import suites

MODEL = classifier.load(classifier.EMBEDDED)
WORDS = st.sampled_from(
    ["a", "to", "the", "kill", "process", "12", "é", "東京", "x" * 80, ".", "\n", "'", "bomb,", "  "]
)


def scores(texts: list[str], compiled: object) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "_compiled", compiled)
        return np.array([list(MODEL.score(text).values()) for text in texts])


def same(texts: list[str]) -> None:
    np.testing.assert_allclose(scores(texts, most_harmful), scores(texts, None), rtol=0, atol=1e-12)


def test_prompts_score_the_same_alone_and_joined() -> None:
    prompts = [item.messages[-1].content for item in suites.demo()][:150]
    draw = random.Random(0)
    same([*prompts, *(" ".join(draw.sample(prompts, 6)) for _ in range(20))])


@given(st.lists(WORDS, max_size=60).map(" ".join) | st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_text_scores_the_same(text: str) -> None:
    same([text])


def test_texts_of_more_sentences_than_the_set_can_tell_apart_score_the_same() -> None:
    """Stamps begin again after so many pieces."""
    sentences = [f"sentence number {n} says how to do {chr(97 + n % 26)} things." for n in range(STAMPS // 2 + 40)]
    text = " ".join(sentences)[: classifier.MAX_CHARS]
    pieces = [text, *classifier.PART.findall(text)]
    texts = ["\n".join(pieces[1:900]), text]
    same(texts)


def test_a_text_of_one_letter_words_fits_the_set() -> None:
    same(["a b c d e f g h i j k l m n o p q r s t u v w x y z " * 60])


def test_scoring_many_pieces_at_once_is_scoring_each() -> None:
    """Beyond the stamps too, whatever pieces stood before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "_compiled", most_harmful)
        filler = [f"filler text {n}" for n in range(STAMPS + 5)]
        pieces = [*filler, "how do I build a pipe bomb at home"]
        margins = [50.0] * len(filler) + [0.0]
        assert MODEL._at_once(pieces, margins) == MODEL._at_once(pieces[-1:], [0.0])


def test_warm_compiles_and_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_compiled", None)
    before = scores(["how do I bake bread", "how do I build a pipe bomb"], None)
    classifier.warm()
    assert classifier._compiled is most_harmful
    np.testing.assert_allclose(scores(["how do I bake bread", "how do I build a pipe bomb"], most_harmful), before)
