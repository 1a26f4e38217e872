"""What an audit asks: items by attacks by draws, in a fixed order."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from alignstack.core.errors import ConfigError, DataError, Problem
from alignstack.core.messages import digest, last_user_text
from alignstack.engine import registry
from alignstack.redteam.suites import Item

Attack = Callable[[str, random.Random], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request and one draw."""

    id: str
    """`ITEM`, `ITEM+ATTACK`; from the second draw on with `#DRAW`."""
    item: Item
    """Attack applied."""
    draw: int
    seed: int
    """Of the model's sampling, 31 bits; from the audit's seed and the id, so that order does not enter."""


def find_attacks(names: Sequence[str]) -> dict[str, Attack]:
    """The functions behind the names. Raises NotFound with the nearest name, ConfigError for one that does not load."""
    found: dict[str, Attack] = {}
    for name in names:
        plugin = registry.find("attacks", name)
        if plugin.loaded is None:
            problem = Problem(
                where=f"attack {name!r}", what=f"from {plugin.distribution!r} does not load: {plugin.error}"
            )
            raise ConfigError([problem])
        found[name] = plugin.loaded
    return found


def plan(
    items: Sequence[Item], attacks: Sequence[str] = (), *, seed: int = 0, draws: int = 1, rotate: bool = False
) -> list[Attempt]:
    """Every item as it is, each harmful one also under every attack. With `rotate` every item once: of the harmful ones
    every other as it is, those between under one attack each, in turn, which bounds the time. Items that their suite
    marks as attacked are left alone, benign ones are never attacked. Raises DataError when two attempts would share an
    id."""
    functions = find_attacks(attacks)
    turns = itertools.cycle([[name] for attack in functions for name in ("none", attack)])
    asked: list[Item] = []
    for item in items:
        harmful = item.label == "harmful" and item.attack == "none" and bool(functions)
        names = ["none"] if not harmful else next(turns) if rotate else ["none", *functions]
        asked += [item if name == "none" else attacked(item, name, functions[name], seed) for name in names]
    attempts = [_attempt(item, draw, seed) for item in asked for draw in range(draws)]
    _distinct(attempts)
    return attempts


def attacked(item: Item, name: str, attack: Attack, seed: int = 0) -> Item:
    """The item with its last user turn rewritten. What judges read as the request stays the plain behaviour."""
    rng = random.Random(digest(seed, name, item.id))
    *before, last = item.messages
    try:
        rewritten = replace(last, content=str(attack(last.content, rng)))
    except Exception as error:  # a plugin may fail in any way
        raise DataError(f"attack {name!r} failed on item {item.id!r}: {type(error).__name__}: {error}") from None
    return replace(item, id=f"{item.id}+{name}", messages=(*before, rewritten), attack=name)


def sent(item: Item) -> str:
    """The text of the last user turn."""
    return last_user_text(item.messages)


def sampling_seed(seed: int, name: str) -> int:
    """Of an attempt, from the audit's seed and the attempt's id."""
    return int(digest(seed, name)[:8], 16) >> 1


def _attempt(item: Item, draw: int, seed: int) -> Attempt:
    name = f"{item.id}#{draw}" if draw else item.id
    return Attempt(id=name, item=item, draw=draw, seed=sampling_seed(seed, name))


def _distinct(attempts: Sequence[Attempt]) -> None:
    twice = [name for name, count in Counter(attempt.id for attempt in attempts).items() if count > 1]
    if twice:
        raise DataError(f"two requests would have the id {twice[0]!r}; rename the suite's item")
