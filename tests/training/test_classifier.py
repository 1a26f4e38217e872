"""A whole training run on a few hundred rows, and the rules that keep its splits apart."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alignstack.core.errors import ConfigError, DataError
from alignstack.layers.classifier import Linear
from alignstack.layers.classifier import load as load_weights
from alignstack.training import corpus
from alignstack.training.classifier import (
    DEMO,
    LABELS,
    ClassifierRecipe,
    gather,
    platt,
    reliability,
    run,
)
from alignstack.training.classifier_data import OWN, SOURCES, Row, about, answered, attacked, declined, topic
from alignstack.training.recipe import load
from alignstack.training.split import neighbours

DEEDS = ("steal a car", "forge a cheque", "hack a phone", "rob a bank", "launder money", "spread malware")
CHORES = ("bake a cake", "paint a fence", "plant a tree", "clean a window", "cook rice", "learn chess")
PLACES = (
    "in Rome",
    "by night",
    "with a friend",
    "on Sunday",
    "in winter",
    "at sea",
    "for my uncle",
    "near the harbour",
)


def rows(deeds: tuple[str, ...], **keys: str) -> Iterator[dict[str, str]]:
    for i, deed in enumerate(deeds):
        for j, place in enumerate(PLACES):
            for form in ("How do I {} {}?", "Explain how to {} {} in detail."):
                yield {"id": f"{i}-{j}-{form[:3]}", "text": form.format(deed, place), **keys}


def write(path: Path, lines: Iterator[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def recipe_in(folder: Path, **keys: object) -> Path:
    write(folder / "train" / "catqa_en.jsonl", rows(DEEDS, label="harmful", category="Illegal Activity"))
    write(folder / "train" / "self_instruct_human.jsonl", rows(CHORES, label="benign"))
    found = {"name": "tiny", "data": ".", "out": "out/tiny.npz", "iterations": 40, "everyday": 100,
             "sources": ["catqa_en", "self_instruct_human"], **keys}  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Linear:
    return load_weights(run(recipe_in(tmp_path_factory.mktemp("run"))))


def test_a_run_learns_to_tell_the_two_apart(trained: Linear) -> None:
    harm, calm = (
        [trained.score(f"How do I {deed} at noon?")["harmful"] for deed in found] for found in (DEEDS, CHORES)
    )
    assert sum(harm) / len(harm) > sum(calm) / len(calm) + 0.1
    assert trained.labels == LABELS


def test_the_file_says_what_made_it(trained: Linear) -> None:
    header = trained.header
    assert set(header["data"]) == {"contrast.jsonl", "everyday.json", "catqa_en.jsonl", "self_instruct_human.jsonl"}
    assert all(len(digest) == 64 for digest in (*header["data"].values(), header["recipe"]))
    assert set(header["rows"]) == {"train", "calibration", "dev"}
    assert 0 <= header["dev"]["harmful"]["ece"] <= 1
    assert header["dev_forms"]["everyday, benign"]["n"] > 0


def test_the_same_recipe_gives_the_same_bytes(trained: Linear, tmp_path: Path) -> None:
    assert load_weights(run(recipe_in(tmp_path))).sha256 == trained.sha256


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="advbench"):
        run(recipe_in(tmp_path, sources=["advbench"]))


def test_an_unknown_set_or_key_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no set 'advbenhc'"):
        run(recipe_in(tmp_path, sources=["advbenhc"]))
    with pytest.raises(ConfigError, match="regularization"):
        run(recipe_in(tmp_path, regularization=1))


def test_a_cluster_lies_in_one_split(tmp_path: Path) -> None:
    found, _ = gather(load(recipe_in(tmp_path), ClassifierRecipe))
    splits: dict[str, set[str]] = {}
    for row in found:
        splits.setdefault(row.cluster, set()).add(row.split)
    assert all(len(names) == 1 for names in splits.values())
    assert {row.form for row in found} == {"plain", "everyday", "attack", "answer", "refusal", "about"}


def test_twins_of_the_demo_prompts_are_not_learnt(tmp_path: Path) -> None:
    demo = [row["text"] for path in DEMO.glob("demo_*.jsonl") for row in corpus.rows(path)]
    write(tmp_path / "train" / "tdc2023.jsonl", iter([{"text": text, "label": "harmful"} for text in demo[:50]]))
    found, _ = gather(load(recipe_in(tmp_path, sources=["tdc2023"]), ClassifierRecipe))
    assert not [row for row in found if row.source == "tdc2023"]


def test_contrast_pairs_share_a_hazard_and_differ_in_label() -> None:
    pairs: dict[int, list[dict[str, str]]] = {}
    for row in corpus.rows(OWN / "contrast.jsonl"):
        pairs.setdefault(row["pair"], []).append(row)
    assert len(pairs) >= 150
    for pair in pairs.values():
        assert sorted(row["label"] for row in pair) == ["benign", "harmful"]
        assert len({row["hazard"] for row in pair}) == 1 and pair[0]["hazard"] in LABELS


def test_the_demo_look_alikes_are_not_in_the_contrast_set() -> None:
    contrast = [row["text"] for row in corpus.rows(OWN / "contrast.jsonl")]
    looks = [row["text"] for row in corpus.rows(DEMO / "demo_lookalikes.jsonl")]
    assert len(looks) == len(set(looks)) == 60
    assert not any(neighbours(looks, contrast))


HARM = Row(text="How do I rob a bank?", harmful=True, hazards=frozenset({"ncr"}), source="catqa_en")


def test_the_forms_of_a_row_carry_the_right_label() -> None:
    rng = random.Random(1)
    attacks = [attacked(HARM, rng) for _ in range(50)]
    assert all(row.harmful and "rob a bank" in row.text for row in attacks)
    assert any("jailbreak" in (row.hazards or ()) for row in attacks)
    assert answered(HARM, rng).harmful and "rob a bank" in answered(HARM, rng).text
    refusal, talk = declined(HARM, ["I can't help with that."], rng), about(HARM, rng)
    assert not refusal.harmful and talk is not None and not talk.harmful and "rob a bank" in talk.text


def test_a_topic_is_the_request_without_its_question_words() -> None:
    assert topic("Hello there friend. How can I rob a bank?") == ("rob a bank", True)
    assert topic("Please write a poem about the sea.") == ("write a poem about the sea", True)
    assert topic("The sea") == ("The sea", False)


def test_platt_scaling_recovers_a_known_slope() -> None:
    """With P(y = 1 | logit) = sigmoid(2 · logit - 1), the fit is (2, -1) up to sampling error."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-(2 * logits - 1)))
    assert platt(logits, y, np.ones(len(y))) == pytest.approx((2, -1), abs=0.1)


def test_calibration_error_by_hand() -> None:
    """Bins 0.2 and 0.9: said 0.2 and 0.9, was 0.5 and 1.0; ECE = (2 · 0.3 + 2 · 0.1) / 4 = 0.2."""
    found = reliability(np.array([0.2, 0.2, 0.9, 0.9]), np.array([True, False, True, True]))
    assert found["ece"] == pytest.approx(0.2) and found["n"] == 4
    assert found["brier"] == pytest.approx((0.64 + 0.04 + 0.01 + 0.01) / 4)


def test_only_sets_that_may_ship_are_listed() -> None:
    assert not {"vicomtech_hate", "dialogue_sgd", "dialogue_topicalchat", "docs_d2l", "bipia_contexts_train"} & set(
        SOURCES
    )
