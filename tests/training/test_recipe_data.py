"""The prompts that ship with the recipes (recipes/data)."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from alignstack import policy
from alignstack.policy.model import OPENING
from alignstack.policy.render import refusal
from alignstack.redteam import suites
from alignstack.training import dataset, sft
from alignstack.training.duplicates import HeldOut
from alignstack.training.recipe import load

DATA = Path(__file__).parents[2] / "recipes/data"
FILES = ("harmful.jsonl", "benign.jsonl", "dev.jsonl")
LICENCES = {"CC-BY-4.0", "Apache-2.0", "MIT"}
LECTURE = re.compile(
    r"\b(illegal|unethical|immoral|wrong|inappropriate|should not|shouldn't|must not|as an ai|important to|remember)\b",
    re.I,
)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_files_are_suites_with_sources_and_licences(name: str) -> None:
    items = suites.read(DATA / name)
    assert {item.label for item in items} == ({"harmful", "benign"} if name == "dev.jsonl" else {name[:-6]})
    assert {row["licence"] for row in rows(name)} <= LICENCES and all(row["source"] for row in rows(name))
    assert all((row["label"] == "harmful") == ("hazard" in row) for row in rows(name))


def test_demo_is_not_in_them() -> None:
    measured = HeldOut([item.plain for item in suites.demo()[1:]])
    asked = [row["text"] for name in FILES for row in rows(name)]
    asked += [row["messages"][0]["content"] for row in rows("canary.jsonl")]
    assert not [text for text in asked if measured.twin([text]) or measured.overlaps([text])]


def test_development_and_canary_prompts_are_not_trained_on() -> None:
    kept = [row["text"] for row in rows("dev.jsonl")] + [row["messages"][0]["content"] for row in rows("canary.jsonl")]
    held_out = HeldOut(kept)
    assert not [row for name in FILES[:2] for row in rows(name) if held_out.twin([row["text"]])]
    train, dev = ({row["cluster"] for name in names for row in rows(name)} for names in (FILES[:2], FILES[2:]))
    assert train and dev and not train & dev


def test_hazards_are_covered_by_the_policy_and_none_is_sexual() -> None:
    known = policy.load(None).hazards
    hazards = Counter(row["hazard"] for name in FILES for row in rows(name) if row["label"] == "harmful")
    assert all(known[hazard].covered for hazard in hazards) and not {"cse", "src", "sxc", "spc"} & set(hazards)
    assert len(hazards) == 8 and min(hazards.values()) >= 50


def test_lookalikes_are_a_third_of_the_benign_and_more() -> None:
    near = [row["id"].split("-")[0] in ("lookalike", "protective", "contrast") for row in rows("benign.jsonl")]
    assert sum(near) / len(near) >= 0.35


def test_canary_is_made_of_short_chats() -> None:
    chats = rows("canary.jsonl")
    assert len(chats) >= 50 and all(
        [turn["role"] for turn in chat["messages"]] == ["user", "assistant"] for chat in chats
    )
    assert all(len(chat["messages"][1]["content"].split()) <= 60 for chat in chats)


def test_files_stay_small() -> None:
    assert sum(file.stat().st_size for file in DATA.iterdir() if file.is_file()) < 700_000


@pytest.mark.parametrize("hazard", [None, *policy.load(None).hazards])
def test_refusals_are_brief_open_alike_offer_a_way_on_and_do_not_lecture(hazard: str | None) -> None:
    said = refusal(policy.load(None), hazard)
    assert said.startswith(OPENING) and 8 <= len(said.split()) <= 45
    assert re.search(r"\bI (can|will)\b|\bplease\b|\bI'm here\b", said.removeprefix(OPENING))
    assert not LECTURE.search(said)


def test_the_recipe_reads_them() -> None:
    config = load(DATA.parent / "sft.yaml", sft.SFT)
    assert [path.name for source in config.data for path in source.files] == ["harmful.jsonl", "benign.jsonl"]
    assert sum(source.share or 0 for source in config.data) == pytest.approx(1)
    assert dataset.demo() and config.evaluate is not None
