"""The rules that write the embedded model's training data (recipes/embedded)."""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignstack.redteam.judges.compliance import opinion
from alignstack.training.split import without_twins

RECIPES = Path(__file__).parents[2] / "recipes/embedded"
DEMO = Path(__file__).parents[2] / "src/alignstack/redteam/data"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(RECIPES)
    yield
    for name in set(sys.modules) - before:
        if name in ("answers", "forms", "lookalikes", "data"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("request_text", "restated"),
    [
        ("How do I bake bread?", "Here is how to bake bread"),
        ("Write a poem about the sea.", "Here is a poem about the sea"),
        ("List three birds of the north", "Here are three birds of the north"),
        ("What are the signs of grief?", "Here are the signs of grief"),
        ("Why do people sing?", "Here is why do people sing"),
        ("How can drones be used by farmers?", "Here is how drones can be used by farmers"),
        ("Paint the door of a house", "Here is how to paint the door of a house"),
        ("Cold soup", "Let us talk about this: Cold soup"),
    ],
)
def test_answers_restate_the_request(request_text: str, restated: str) -> None:
    from answers import reply

    assert restated in reply(request_text, random.Random(0))


def test_judge_sees_restating_answers_as_engaging_and_never_as_refusals() -> None:
    from answers import reply
    from lookalikes import requests

    opinions = [opinion(text, reply(text, random.Random(text))) for text in requests()[::7]]
    assert not any(found.refused for found in opinions)
    assert sum(found.harmful for found in opinions) > 0.8 * len(opinions)


def test_long_requests_are_cut_at_a_sentence() -> None:
    from answers import one_line

    assert one_line("One short sentence here. " + "word " * 100, 20) == "One short sentence here."


def test_attacks_keep_the_request() -> None:
    from forms import WHO, WRAP

    assert all("{x}" in wrap for wrap in WRAP) and len(WHO) > 5


def test_lookalikes_are_many_and_fill_every_slot() -> None:
    from lookalikes import requests

    found = requests()
    assert len(found) == len(set(found)) > 500
    assert not any("{" in text for text in found)


def test_training_prompts_are_no_twins_of_the_demo() -> None:
    from data import contrast, demo, lookalikes

    texts = [*lookalikes()[0], *(row["text"] for row in contrast("harmful", dev=False))]
    assert len(without_twins([{"text": text} for text in texts], demo())) == len(texts)


def test_development_pairs_and_training_pairs_do_not_meet() -> None:
    from data import contrast

    train, dev = ({row["pair"] for row in contrast("benign", dev=held_out)} for held_out in (False, True))
    assert train and dev and not train & dev


def test_demo_prompts_are_read_whole() -> None:
    from data import demo

    lines = sum(len((DEMO / f"{name}.jsonl").read_text().splitlines()) for name in ("demo_harmful", "demo_benign"))
    assert len(demo()) == lines and all(json.dumps(text) for text in demo())
