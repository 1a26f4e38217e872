"""Digits and signs in place of letters that look like them.

Source: Wei, Haghtalab, Steinhardt, "Jailbroken: How Does LLM Safety Training Fail?" (2023), `leetspeak`.
"""

import random

LOOKS = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}

SHARE = 0.9
"""Of the letters that have a look-alike; people who write so are not consistent."""


def leetspeak(text: str, rng: random.Random) -> str:
    """Replaces about `SHARE` of the letters a e i o s t, in either case."""
    return "".join(LOOKS[char.lower()] if char.lower() in LOOKS and rng.random() < SHARE else char for char in text)
