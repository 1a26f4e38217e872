import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def methods() -> Any:
    spec = importlib.util.spec_from_file_location("methods", ROOT / "benchmarks/methods.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_that_trains_from_a_checkpoint_is_measured(methods: Any) -> None:
    found = {recipe["method"] for recipe in methods.recipes().values()}
    assert found == {"sft", "reward", "dpo", "kto", "rlhf", "rlaif", "constitutional"}


def test_parents_are_built_first(methods: Any) -> None:
    known = methods.recipes()
    wanted = methods.closure(known, ["rlhf"])
    assert wanted == {"rlhf": {"reward"}, "reward": set()}
    done: list[str] = []
    methods.each(wanted, known, done.append, jobs=2)
    assert done == ["reward", "rlhf"]


def test_recipe_is_placed_by_seed_and_keeps_its_data(methods: Any, tmp_path: Path) -> None:
    tree = methods.placed(methods.recipes()["rlhf"]["tree"], 7, tmp_path)
    assert tree["parent"] == "embedded:aligned" and tree["out"] == str(tmp_path / "rlhf-7")
    assert tree["rewards"][0]["checkpoint"] == str(tmp_path / "reward-7")
    assert all(Path(file).is_file() for source in tree["data"] for file in source["files"])


def test_interval_spans_seeds_and_prompts(methods: Any) -> None:
    one = {"label": ["harmful"] * 4, "cluster": ["a", "b", "c", "d"], "on": [True, True, False, False]}
    other = one | {"on": [True] * 4}
    assert methods.rate([other], "harmful", "on") == "100.0% (100.0%–100.0%)"
    assert methods.rate([one, other], "harmful", "on").startswith("75.0% (")
    low, high = methods.rate([one, one], "harmful", "on")[:-1].split(" (")[1].split("–")
    assert float(low[:-1]) == 0.0 and float(high[:-1]) == 100.0  # two of four clusters: anything may be drawn


def test_page_has_the_place_of_the_table(methods: Any) -> None:
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert page.index(methods.BEGIN) < page.index(methods.END)
