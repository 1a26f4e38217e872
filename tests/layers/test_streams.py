"""On a running stream layers read what is new, with its context; all looks together cost no more than the length."""

import base64
import threading
from collections.abc import Callable, Iterator

import pytest

from alignstack import policy
from alignstack.core import layer as core_layer
from alignstack.core.layer import Layer, View
from alignstack.core.messages import user
from alignstack.core.normalise import CONTEXT, readings
from alignstack.core.verdict import Verdict
from alignstack.layers import classifier
from alignstack.layers.classifier import MAX_CHARS, Classifier, ClassifierConfig
from alignstack.layers.keyword import Keyword, KeywordConfig

POLICY = policy.load()
CALM = "The harbour was quiet that morning and the boats lay still in the grey water. "
HARM = "Sure. Here is how to build a pipe bomb. First, gather what you need. "


def words(*patterns: str, **keys: object) -> Keyword:
    config = KeywordConfig.model_validate({"patterns": patterns, **keys})
    return Keyword(config, name="words", phase="output", hazards=None, policy=POLICY)


def scores() -> Classifier:
    return Classifier(ClassifierConfig(), name="scores", phase="output", hazards=None, policy=POLICY)


def looks(text: str, step: int = 100) -> Iterator[View]:
    """Views at a stream that grows by `step` characters, the last one final."""
    for end in range(step, len(text), step):
        yield View(phase="output", messages=user("hi"), draft=text[:end], final=False, seen=end - step)
    yield View(phase="output", messages=user("hi"), draft=text, seen=len(text) - len(text) % step)


async def first_block(layer: Layer, text: str) -> tuple[View, Verdict] | None:
    for view in looks(text):
        verdict = await layer.check(view)
        if verdict.action == "block":
            return view, verdict
    return None


@pytest.mark.parametrize("start", [0, 95, 1_000, 1_093, 1_950])
async def test_a_phrase_is_found_at_the_first_look_that_holds_it_and_marked_in_the_whole_text(start: int) -> None:
    text = ("x" * 3_000)[:start] + "kumquat farm" + "y" * 500
    found = await first_block(words("kumquat farm"), text)
    assert found is not None
    (view, verdict), end = found, start + len("kumquat farm")
    assert len(view.text) == min(-(-end // 100) * 100, len(text))
    assert [(span.start, span.end) for span in verdict.spans] == [(start, end)]


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: "".join(f"&#{ord(c):07d};" for c in text),
        lambda text: "\u200b".join(text),
        lambda text: base64.b64encode(f"say the word {text} to me".encode()).decode(),
    ],
    ids=["entities", "zero-width", "base64"],
)
async def test_a_disguised_phrase_is_found_while_the_stream_runs(disguise: Callable[[str], str]) -> None:
    phrase = "a long phrase that names the kumquat"
    for start in (1_000, 1_050):
        text = "- " * (start // 2) + disguise(phrase) + " -" * 600
        found = await first_block(words(phrase), text)
        assert found is not None and not found[0].final


async def test_a_long_encoded_text_is_read_at_the_end() -> None:
    hidden = base64.b64encode((CALM * 20 + "kumquat").encode()).decode()
    found = await first_block(words("kumquat"), f"Decode: {hidden}")
    assert found is not None


@pytest.mark.parametrize("pattern", ["ass", "^lass", r"\Alass", r"(?<!c)lass"])
async def test_where_the_reading_begins_is_no_beginning_of_a_word_or_text(pattern: str) -> None:
    layer = words(pattern, whole_word=pattern == "ass", regex=pattern != "ass")
    for before in range(8):
        assert await first_block(layer, " " * before + "x class" * 300) is None


async def test_a_harmful_part_is_found_while_the_stream_runs() -> None:
    found = await first_block(scores(), CALM * 30 + HARM + CALM * 30)
    assert found is not None and not found[0].final
    assert found[0].seen <= len(CALM * 30 + HARM)
    assert await first_block(scores(), CALM * 60) is None


async def test_at_the_end_the_whole_text_is_judged() -> None:
    text = CALM * 20 + HARM
    *_, last = looks(text)
    whole = View(phase="output", messages=user("hi"), draft=text)
    for layer in (scores(), words("pipe bomb")):
        assert await layer.check(last) == await layer.check(whole)


async def test_past_its_scope_the_classifier_abstains() -> None:
    text = (CALM * 900)[: MAX_CHARS + 1_000]
    view = View(phase="output", messages=user("hi"), draft=text, final=False, seen=len(text) - 100)
    assert (await scores().check(view)).action == "abstain"
    edge = View(phase="output", messages=user("hi"), draft=text, final=False, seen=MAX_CHARS - 100)
    assert (await scores().check(edge)).action == "allow"


@pytest.mark.parametrize("final", [True, False])
async def test_an_empty_answer_is_no_verdict(final: bool) -> None:
    for layer in (words("x"), scores()):
        verdict = await layer.check(View(phase="output", messages=user("hi"), draft="", final=final))
        assert (verdict.action, verdict.reason) == ("abstain", "nothing to read")


async def characters_read(monkeypatch: pytest.MonkeyPatch, chars: int) -> tuple[int, int, int]:
    """Looks at a stream of `chars` characters; what was normalised and what was hashed for them, without the last."""
    normalised, hashed = [], []
    keys = classifier._keys
    monkeypatch.setattr(core_layer, "readings", lambda text: normalised.append(len(text)) or readings(text))
    monkeypatch.setattr(classifier, "_keys", lambda text: hashed.append(len(text)) or keys(text))
    *running, _ = looks((CALM * (chars // len(CALM) + 1))[:chars])
    layers = (words("kumquat", "pipe bomb"), scores())
    for view in running:
        for layer in layers:
            assert (await layer.check(view)).action == "allow"
    monkeypatch.undo()
    return len(running), sum(normalised), sum(hashed)


async def test_all_looks_at_a_stream_read_each_character_a_fixed_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for chars in (5_000, 20_000):
        count, normalised, hashed = await characters_read(monkeypatch, chars)
        assert normalised <= count * (100 + CONTEXT)
        assert hashed <= count * (100 + CONTEXT)


async def test_layers_that_look_at_the_same_text_share_its_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(core_layer, "readings", lambda text: asked.append(text) or readings(text))
    for view in (*looks(CALM * 10), View(phase="request", messages=user(CALM))):
        asked.clear()
        for layer in (words("kumquat"), scores(), words("pipe bomb")):
            await layer.check(view)
        assert len(asked) == 1


def test_both_can_begin_in_the_task_of_the_engine() -> None:
    assert words("x").info.quick and scores().info.quick


async def test_only_long_texts_are_read_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(core_layer, "readings", lambda text: threads.append(threading.get_ident()) or readings(text))
    for layer in (words("kumquat"), scores()):
        for times, here in ((10, True), (100, False)):
            await layer.check(View(phase="output", messages=user("hi"), draft=CALM * times))
            assert (threads.pop() == threading.get_ident()) is here
