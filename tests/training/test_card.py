import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from pydantic import Field

from alignstack.training import card, trainer
from alignstack.training.lineage import Stage
from alignstack.training.stage import Evaluation, Recipe

RATES = {"asr/off": 0.25, "asr/on": 0.125, "over_refusal/off": 0.0, "over_refusal/on": 0.5}
LINE: dict[str, Any] = {
    "step": 40, "kept": True, "evaluation": {**RATES, "perplexity": 3.5, "tasks": 0.75},
    "n": {**dict.fromkeys(RATES, 8), "perplexity": 20, "tasks": 4},
    "interval": {**{name: [0.1, 0.6] for name in RATES}, "tasks": [0.3, 0.95]},
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "kind": "sft", "rows": 30,
    "files": [
        {"file": "a.jsonl", "sha256": "f" * 64, "format": "trl", "read": 40, "used": 30,
         "dropped": {"repeats another row": 10}, "licences": ["cc-by-4.0"], "sides": {"harmful": 30}},
        {"file": "b.jsonl", "sha256": "e" * 64, "format": "alpaca", "read": 1, "used": 1, "dropped": {},
         "licences": [], "sides": {}},
    ],
    "held_out": [{"held_out": "suite.jsonl", "sha256": "d" * 64}],
}  # fmt: skip


class Child(Recipe):
    blend: float = 1.0
    beta: float = 0.1
    data: list[str] = Field(default_factory=list)
    optimiser: trainer.Optimiser = trainer.Optimiser(steps=40)


def recipe(**more: Any) -> Child:
    asked = Evaluation(suites=[Path("harmful.jsonl"), Path("benign.jsonl")], canary=[Path("chats.jsonl")])
    asked = asked.model_copy(update={"tasks": [Path("tasks.jsonl")]})
    return Child(**{"name": "child", "parent": "../runs/helpful", "out": Path("/tmp/child"), "evaluate": asked, **more})


def stage(**more: Any) -> Stage:
    facts: dict[str, Any] = {
        "stage": "child", "method": "dpo", "weights": "a" * 64, "parent": "b" * 64, "parent_path": "../helpful",
        "recipe": "c" * 64, "data": {"a.jsonl": "f" * 64}, "seed": 3, "tokens": 1000, "seconds": 12.5,
        "libraries": {"torch": "2.13.0"}, "policy": "p" * 64, "steps": 40, "peak_mb": 700.0,
    }  # fmt: skip
    return Stage(**facts | more)


def made(notes: dict[str, Any] | None = None, *, given: Any = None, **more: Any) -> str:
    notes = {"data": MANIFEST, "evaluation": LINE} if notes is None else notes
    return card.model_card(stage(**more), given or recipe(), notes)


def test_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(made()).data
    assert data.license == "other" and data.license_name == "that-of-parent-and-data"
    assert data.base_model == "helpful" and data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation" and data.datasets == ["a.jsonl", "b.jsonl"]
    assert {"alignstack", "dpo"} <= set(data.tags or [])


def test_numbers_of_the_deployment_are_in_the_model_index() -> None:
    found = ModelCard(made()).data.eval_results or []
    values = {one.metric_type: (one.metric_value, one.dataset_name) for one in found}
    assert values == {
        "asr_guards_off": (0.25, "harmful.jsonl + benign.jsonl"),
        "asr_guards_on": (0.125, "harmful.jsonl + benign.jsonl"),
        "over_refusal_guards_off": (0.0, "harmful.jsonl + benign.jsonl"),
        "over_refusal_guards_on": (0.5, "harmful.jsonl + benign.jsonl"),
        "perplexity": (3.5, "chats.jsonl"),
        "exact_match": (0.75, "tasks.jsonl"),
    }
    assert {one.task_type for one in found} == {"text-generation"}
    names = [one.metric_name for one in found]
    assert "attack success rate, guards on (n = 8; 95% interval 0.100 to 0.600)" in names
    assert "perplexity of plain answers (n = 20)" in names


def test_card_survives_the_hubs_own_writer(tmp_path: Path) -> None:
    ModelCard(made()).save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert again.data.to_dict() == ModelCard(made()).data.to_dict()


def test_licence_of_the_recipe_is_used() -> None:
    data = ModelCard(made(given=recipe(licence="apache-2.0"))).data
    assert data.license == "apache-2.0" and data.license_name is None


def test_reward_models_are_classifiers() -> None:
    assert ModelCard(made(method="reward")).data.pipeline_tag == "text-classification"


def test_data_come_with_licences_and_with_what_was_left_out() -> None:
    text = made()
    assert "| a.jsonl | trl | 40 | 30 | 10 repeats another row | cc-by-4.0 |" in text
    assert "| b.jsonl | alpaca | 1 | 1 | none | unknown |" in text
    assert "Held out, so that it can be audited with: suite.jsonl." in text


def test_settings_and_hashes_are_listed() -> None:
    text = made(rows="9" * 64)
    for row in ("| optimiser.steps | 40 |", "| beta | 0.1 |", "| seed | 3 |", "9" * 64, "p" * 64, "torch 2.13.0"):
        assert row in text
    assert "lora" not in text and "/tmp/child" not in text


def test_lineage_and_further_checkpoints_are_named() -> None:
    before = [{"stage": "base", "method": "pretrain", "weights": "1" * 64}]
    text = made({"lineage": before}, uses={"reward": "2" * 64})
    assert text.index("1" * 64) < text.index("a" * 64) < text.index("2" * 64)


def test_card_without_an_evaluation_says_so() -> None:
    text = made({})
    assert "Not measured while it trained" in text and ModelCard(text).data.eval_results is None


def test_blend_after_the_measurement_is_said() -> None:
    assert "before they were blended" in made(given=recipe(blend=0.5)) and "blended" not in made()


def test_other_notes_become_sections() -> None:
    assert "## Reward calibration\n\n    bins:\n    - 0.5\n" in made({"reward_calibration": {"bins": [0.5]}})


NASTY = "x\n---\n# <script>alert(1)</script> | `b` \x1b[31m [a](http://b) \u202e"


@pytest.mark.parametrize("where", ["stage", "stopped", "file", "licence", "note"])
def test_texts_of_others_stay_text(where: str) -> None:
    """Neither the front matter nor the page can be steered by names, reasons and licences."""
    files = [MANIFEST["files"][0] | ({"file": NASTY} if where == "file" else {"licences": [NASTY]})]
    notes = {"data": MANIFEST | {"files": files}, "evaluation": LINE, "rounds": {"a": NASTY if where == "note" else ""}}
    more = {where: NASTY} if where in ("stage", "stopped") else {}
    text = made(notes, given=recipe(licence=NASTY if where == "licence" else None), **more)
    front, page = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    quoted = "\n".join(line for line in page.splitlines() if not line.startswith("    "))
    assert "<script>" not in quoted and not re.search(r"(?<!\\)\]\(", quoted)
    assert "\x1b" not in text and "\u202e" not in text
