"""Rewards for `alignstack train rlhf`: one file each, added up with the recipe's weights.

This module turns the recipe's list into functions as TRL calls them, and measures of every batch what the watch has to
know about the answers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from alignstack.core.errors import ConfigError, Problem
from alignstack.training.rewards.answer import SIDES, Answer, Keys, Place, Reward
from alignstack.training.rewards.format import Format
from alignstack.training.rewards.guard import Guard
from alignstack.training.rewards.judge import Judge
from alignstack.training.rewards.length import Length
from alignstack.training.rewards.model import Model
from alignstack.training.trainer import RewardFunction

KINDS: dict[str, Any] = {"format": Format, "guard": Guard, "judge": Judge, "length": Length, "model": Model}
Config = Annotated[
    Format.Config | Guard.Config | Judge.Config | Length.Config | Model.Config, Field(discriminator="use")
]
"""One entry of a recipe's `rewards`."""

OPENING = 3
"""Words by which two answers open alike: refusals vary in what follows."""


def named(configs: Sequence[Keys], file: str) -> list[Any]:
    """Every entry with a name: its own, else its side or its kind. Raises ConfigError for a name that comes twice."""
    found = [config if config.name else config.model_copy(update={"name": _kind(config)}) for config in configs]
    twice = [name for name, n in Counter(str(config.name) for config in found).items() if n > 1]
    if twice:
        raise ConfigError(
            [Problem(where=f"{file}: rewards", what=f"two are named {n!r}; give one a `name`") for n in twice]
        )
    return found


def _kind(config: Any) -> str:
    return str(getattr(config, "side", config.use))


def build(configs: Sequence[Any], place: Place) -> dict[str, Reward]:
    """The rewards, in the recipe's order."""
    return {config.name: KINDS[config.use](config, place) for config in configs}


def unscored(rewards: Mapping[str, Reward], labels: set[str | None]) -> set[str | None]:
    """Labels whose rows no reward has anything to say about; rows without one need a reward that does not ask."""
    if any(reward.sides >= SIDES for reward in rewards.values()):
        return set()
    return labels.difference(*(reward.sides for reward in rewards.values()))


def functions(
    rewards: Mapping[str, Reward], end: int, also: Callable[[], Mapping[str, float]] = dict
) -> dict[str, RewardFunction]:
    """As TRL calls them. `end`: the token that ends an answer. The first one also logs the `measures` of the batch and
    whatever `also` gives."""

    def function(reward: Reward, first: bool) -> RewardFunction:
        def call(log_metric: Callable[[str, float], None] = lambda name, value: None, **batch: Any) -> list[Any]:
            answers = read(end=end, **batch)
            if first:
                for name, value in {**measures(answers), **also()}.items():
                    log_metric(name, value)
            return reward.score(answers)

        return call

    return {name: function(reward, i == 0) for i, (name, reward) in enumerate(rewards.items())}


def read(
    *, end: int, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **columns: Any
) -> list[Answer]:
    """TRL's batch as answers: `prompts` and `completions` are conversations, every list beside them is a column."""
    rows = {name: values for name, values in columns.items() if isinstance(values, list)}
    return [
        Answer(
            prompt=prompts[i],
            text=completions[i][0]["content"],
            ids=completion_ids[i],
            ended=bool(len(completion_ids[i])) and completion_ids[i][-1] == end,
            row={name: values[i] for name, values in rows.items()},
        )
        for i in range(len(prompts))
    ]


def measures(answers: Sequence[Answer]) -> dict[str, float]:
    """`answers/distinct`: different texts per answer. `answers/alike`: share of pairs of
    answers to different requests that open with the same words, among benign requests where rows say which are: to
    harmful ones, refusals may all sound alike. Left out where there are no such pairs."""
    found = {"answers/distinct": len({answer.text for answer in answers}) / len(answers)}
    benign = [answer for answer in answers if answer.side != "harmful"]
    pairs = [(a, b) for i, a in enumerate(benign) for b in benign[:i] if a.request != b.request]
    if pairs:
        found["answers/alike"] = sum(opening(a.text) == opening(b.text) for a, b in pairs) / len(pairs)
    return found


def opening(text: str) -> tuple[str, ...]:
    """The first words, in lower case."""
    return tuple(text.casefold().split()[:OPENING])
