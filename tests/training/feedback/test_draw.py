from collections import Counter

import pytest

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.training.feedback.draw import Drawn, Principles

BUILTIN = policy.load()


def drawn(seed: int = 0, **settings: object) -> Drawn:
    return Drawn(Principles.model_validate(settings), BUILTIN, seed=seed, file="recipe.yaml")


def test_draws_depend_on_seed_and_purpose_alone() -> None:
    several = drawn(sample=3)
    before = [several.draw("case", i) for i in range(20)]
    assert [drawn(sample=3).draw("case", i) for i in reversed(range(20))] == before[::-1]
    assert [drawn(1, sample=3).draw("case", i) for i in range(20)] != before
    assert all(len(set(each)) == 3 for each in before) and len(set(before)) > 10


def test_weights_say_how_often() -> None:
    """Weights 3 to 1: of 2000 draws 1500 are expected, standard deviation 19."""
    made = drawn(only=["honesty", "privacy", "credit"], weights={"honesty": 3, "credit": 0})
    counts = Counter(name for i in range(2000) for name in made.draw(i))
    assert abs(counts["honesty"] - 1500) < 80 and counts["credit"] == 0


def test_no_more_than_there_are() -> None:
    assert drawn(only=["honesty", "privacy"], sample=9).draw(0) == ("honesty", "privacy")


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        drawn(only=["honestly"], weights={"privacy": -1, "xyz": 2})
    said = str(caught.value)
    assert "principles.only: no principle 'honestly' in the policy; did you mean 'honesty'?" in said
    assert "principles.weights.privacy: should not be negative" in said and "no principle 'xyz'" in said
    with pytest.raises(ConfigError, match="leave no principle"):
        drawn(only=["honesty"], weights={"honesty": 0})
