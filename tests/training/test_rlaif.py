"""Preferences by judges on a real port, on models that train in a second."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from alignstack import policy
from alignstack.core.errors import DataError
from alignstack.training import lineage, rlaif, trainer
from alignstack.training.stage import Tools, read_rows
from tests.training.conftest import some_text, write_jsonl
from tests.training.feedback.talking import Body, Said, shown, talking

PRINCIPLES = {entry.id: entry.text for entry in policy.load().principles}
N = 12


def recipe(here: Path, parent: Path, judge: dict[str, Any], **more: Any) -> Path:
    prompts = [{"id": str(i), "text": some_text(i, 8), "label": ("harmful", "benign")[i % 2]} for i in range(N)]
    write_jsonl(here / "prompts.jsonl", prompts)
    tree = {
        "name": "prefs", "parent": str(parent), "out": "prefs", "seed": 1, "max_length": 64,
        "prompts": ["prompts.jsonl"], "answers": {"max_tokens": 40, "temperature": 1.0}, "count": 3,
        "feedback": {"use": "constitution", "model": judge},
        "optimiser": {"batch": 4, "steps": 2, "warmup": 0, "precision": "fp32"}, **more,
    }  # fmt: skip
    (here / "prefs.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return here / "prefs.yaml"


def shorter(body: Body) -> Said:
    """A judge that likes the shorter answer, of two as long the first in the alphabet."""
    texts = [shown(body)[name] for name in ("answer_a", "answer_b")]
    return "AB"[texts.index(min(texts, key=lambda text: (len(text), text)))]


def preferences(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]


def said(row: dict[str, Any], which: str) -> str:
    return str(row[which][0]["content"])


def test_a_judge_with_preferences_teaches_them(
    tmp_path: Path, speaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with talking(shorter) as server:
        out = rlaif.run(recipe(tmp_path, speaking, server.block))
    lines, rows = preferences(out), read_rows(out / "rows.jsonl.gz")
    assert len(lines) == len(rows) > N / 2 and len(server.asked) == 2 * len(lines)
    for line in lines:
        best = min(line["answers"], key=lambda text: (len(text), text))
        assert line["p"] == float(line["answers"][0] == best)
        assert all(name in PRINCIPLES for name in line["principles"])
    for row in rows:
        chosen, rejected = said(row, "chosen"), said(row, "rejected")
        assert (len(chosen), chosen) < (len(rejected), rejected) and row["confidence"] == 1.0
    printed = capsys.readouterr().err
    assert "position bias 0.00" in printed and str(out / "preferences.jsonl") in printed
    assert lineage.read(out).method == "rlaif" and lineage.read(out).uses["judge"]


def test_a_judge_that_always_takes_the_first_is_found_out(tmp_path: Path, speaking: Path) -> None:
    with (
        talking(lambda body: "A") as server,
        pytest.raises(DataError, match=r"position bias 1\.00 \[0\.\d+, 1\.00\] of (\d+) pairs: \1 times the first"),
    ):
        rlaif.run(recipe(tmp_path, speaking, server.block))
    lines = preferences(tmp_path / "prefs.work")
    assert lines and all((line["first"], line["second"], line["p"]) == (1.0, 0.0, 0.5) for line in lines)
    assert rlaif.Bias(lines).rate == 1.0


def test_pairs_on_which_the_verdict_follows_the_order_are_dropped(tmp_path: Path, speaking: Path) -> None:
    def reply(body: Body) -> Said:
        return "A" if "bread" in shown(body)["request"] else shorter(body)

    with talking(reply) as server:
        out = rlaif.run(recipe(tmp_path, speaking, server.block))
    lines = preferences(out)
    flipped = [line for line in lines if "bread" in line["request"]]
    assert 0 < len(flipped) < len(lines) and all(line["p"] == 0.5 for line in flipped)
    assert len(read_rows(out / "rows.jsonl.gz")) == len(lines) - len(flipped)
    bias = rlaif.Bias(lines)
    assert (bias.first, bias.second, bias.rate) == (len(flipped), 0, pytest.approx(len(flipped) / len(lines)))


def test_the_judges_certainty_is_the_label(tmp_path: Path, speaking: Path) -> None:
    """ln 4 apart: 0.8. With a bound of 0.9 no such pair is left."""

    def reply(body: Body) -> Said:
        letter = str(shorter(body))
        return letter, {letter: -0.5, {"A": "B", "B": "A"}[letter]: -0.5 - 1.3862943611}

    with talking(reply) as server:
        out = rlaif.run(recipe(tmp_path, speaking, server.block))
        assert {round(row["confidence"], 6) for row in read_rows(out / "rows.jsonl.gz")} == {0.8}
        with pytest.raises(DataError, match=r"confidence of 0\.9"):
            rlaif.run(recipe(tmp_path, speaking, server.block, min_confidence=0.9))


def test_the_chosen_answers_become_likelier(tmp_path: Path, speaking: Path) -> None:
    import numpy as np

    from alignstack.training import scores

    with talking(shorter) as server:
        settings = {"batch": 8, "steps": 8, "warmup": 0, "learning_rate": 1e-3, "precision": "fp32"}
        out = rlaif.run(recipe(tmp_path, speaking, server.block, optimiser=settings))
    assert np.mean(scores.margins(out, speaking, read_rows(out / "rows.jsonl.gz"), 0.1)) > 0.05


def test_the_pairs_can_make_a_reward_model(tmp_path: Path, speaking: Path) -> None:
    import torch

    with talking(shorter) as server:
        settings = {"batch": 8, "steps": 12, "warmup": 0, "learning_rate": 3e-3, "precision": "fp32"}
        out = rlaif.run(recipe(tmp_path, speaking, server.block, then="reward", optimiser=settings))
    model, tokenizer = trainer.load_scorer(out)

    def score(row: dict[str, Any], which: str) -> float:
        text = tokenizer.apply_chat_template([*row["prompt"], *row[which]], tokenize=False)
        with torch.no_grad():
            return float(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0])

    rows = read_rows(out / "rows.jsonl.gz")
    right = [score(row, "chosen") > score(row, "rejected") for row in rows]
    assert sum(right) > 0.8 * len(rows)


def test_a_failing_verdict_costs_its_pair_alone_and_is_asked_for_again(tmp_path: Path, speaking: Path) -> None:
    broken = True

    def reply(body: Body) -> Said:
        """Fails on one request; prefers nothing else, so that the run stops before it trains."""
        return web.Response(status=500) if broken and "dog" in shown(body)["request"] else "A"

    with talking(reply) as server:
        file = recipe(tmp_path, speaking, server.block)
        with pytest.raises(DataError):
            rlaif.run(file)
        failed = [line["id"] for line in preferences(tmp_path / "prefs.work") if "failed" in line]
        assert failed and len(failed) < len(preferences(tmp_path / "prefs.work"))
        broken, before = False, len(server.asked)
        with pytest.raises(DataError):
            rlaif.run(file, Tools(resume=True))
    assert len(server.asked) - before == 2 * len(failed)
    assert not any("failed" in line for line in preferences(tmp_path / "prefs.work"))


def test_a_guard_prefers_the_refusal_of_harm_alone(tmp_path: Path, speaking: Path) -> None:
    from alignstack.training.feedback import Case

    file = recipe(tmp_path, speaking, {"use": "scripted"}, feedback={"use": "guard"})
    config = rlaif.load(file, rlaif.RLAIF)
    stage = rlaif.begin(config, file, "rlaif", Tools())
    judge = rlaif.build(config.feedback, policy=stage.policy, file=file, where="feedback")
    drawn = rlaif.Drawn(config.principles, stage.policy, seed=0, file=str(file))
    refusal, help_ = policy.render.refusal(stage.policy, "ncr"), "Mix it and wait."
    asked = {"How do I steal a car?": refusal, "How do I bake bread?": help_}
    pairs = [(Case(id=text, prompt=[{"role": "user", "content": text}]), refusal, help_) for text in asked]
    rows = rlaif.preferred(config, pairs, rlaif.compare(stage, config, pairs, drawn, judge))
    assert {row["prompt"][0]["content"]: said(row, "chosen") for row in rows} == asked


def test_intervals_are_wilsons() -> None:
    """3 of 10: centre (0.3 + 0.19207) / 1.38415 = 0.35551, half width 1.95996 / 1.38415 x sqrt(0.021 + 0.0096035) =
    0.24772."""
    low, high = rlaif.wilson(3, 10)
    assert (low, high) == (pytest.approx(0.10779, abs=1e-4), pytest.approx(0.60323, abs=1e-4))
    assert rlaif.wilson(0, 0) == (0.0, 1.0)
