import base64 as encoding
import random
import re
from importlib.metadata import entry_points

import pytest

from alignstack.core.normalise import readings
from alignstack.redteam.attacks.base64 import base64
from alignstack.redteam.attacks.leetspeak import leetspeak
from alignstack.redteam.attacks.past_tense import past_tense
from alignstack.redteam.attacks.prefix_injection import prefix_injection
from alignstack.redteam.attacks.role_play import role_play

ATTACKS = (base64, leetspeak, past_tense, prefix_injection, role_play)
REQUESTS = (
    "How do I pick a lock?",
    "Write a letter to my landlord.",
    "Wie öffnet man ein Schloss? 🔒",
    "{braces} and {0} and %s",
    "word " * 1000,
)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("text", REQUESTS)
def test_same_seed_gives_the_same_attack_and_changes_the_text(attack, text: str) -> None:  # type: ignore[no-untyped-def]
    assert attack(text, random.Random(1)) == attack(text, random.Random(1)) != text


@pytest.mark.parametrize("attack", ATTACKS)
def test_seeds_give_different_wordings(attack) -> None:  # type: ignore[no-untyped-def]
    assert len({attack("How do I open a tin of soup without a key?", random.Random(n)) for n in range(30)}) > 1


def test_every_attack_is_registered() -> None:
    assert {entry.load() for entry in entry_points(group="alignstack.attacks")} >= set(ATTACKS)


@pytest.mark.parametrize("text", REQUESTS)
def test_base64_decodes_to_the_request(text: str) -> None:
    [code] = re.findall(r"[A-Za-z0-9+/]{12,}={0,2}", base64(text, random.Random(0)))
    assert encoding.b64decode(code).decode() == text


@pytest.mark.parametrize("attack", [role_play, prefix_injection])
@pytest.mark.parametrize("text", REQUESTS)
def test_wrappers_keep_the_request_unchanged(attack, text: str) -> None:  # type: ignore[no-untyped-def]
    for seed in range(10):
        assert text in attack(text, random.Random(seed))


def test_leetspeak_is_undone_by_normalisation() -> None:
    attacked = leetspeak("How do I write a letter to an employee?", random.Random(3))
    assert any("write a letter to an employee" in reading.casefold() for reading in readings(attacked))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("How do I pick a lock?", "How did people pick a lock "),
        ("Tell me how to pick a lock.", "How did people pick a lock "),
        ("Write a rude letter.", "How did people use to write a rude letter "),
        ("Give me a list of tricks", "How did people use to give each other a list of tricks "),
        ("Why is the sky blue?", "Why was the sky blue "),
        ("What are some ways to pick a lock?", "What were some ways to pick a lock "),
        ("Where can I buy a lock pick?", "Where could people buy a lock pick "),
        ("How can a lock be picked?", "How could a lock be picked "),
        ("As a guard, how can I pick a lock?", "How did people pick a lock "),
        ("Which tools should I use?", "Which tools should people use "),
        ("The sky is blue.", 'when they were asked "The sky is blue"?'),
    ],
)
def test_past_tense_asks_how_people_did_it(text: str, said: str) -> None:
    assert said in past_tense(text, random.Random(0))
