import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignstack.core.errors import ConfigError, DataError
from alignstack.training import lineage, reward, reward_report, trainer
from alignstack.training.monitor import Monitor, Now
from alignstack.training.reward_report import Pair
from alignstack.training.stage import Tools

from .conftest import some_text, write_jsonl

STILL = trainer.Optimiser(batch=4, learning_rate=1e-12, warmup=0, steps=1, precision="fp32")


class Keep(Monitor):
    """Holds on to TRL's trainer."""

    name = "keep"
    trainer: Any = None

    def begin(self, now: Now) -> None:
        self.trainer = now.trainer


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(seed: int, **more: float) -> dict[str, Any]:
    """The better answer is always `tea`, beside a longer or a shorter one."""
    worse = some_text(seed, 2 + seed % 7)
    prompt = [{"role": "user", "content": f"{some_text(seed, 4)} {seed}"}]
    return {"prompt": prompt, "chosen": said("tea with old bread"), "rejected": said(worse), **more}


def how(work: Path, optimiser: trainer.Optimiser = STILL, **keys: Any) -> trainer.Run:
    return trainer.Run(work=work, seed=1, optimiser=optimiser, max_length=64, log_every=1, **keys)


def recipe(folder: Path, name: str, more: str = "") -> Path:
    write_jsonl(folder / "pairs.jsonl", [pair(i) for i in range(60)])
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nparent: helpful\nout: {name}\ndata: [pairs.jsonl]\nseed: 3\nmax_length: 64\n"
        f"optimiser: {{batch: 16, learning_rate: 3.0e-3, warmup: 1, epochs: 2, precision: fp32}}\n{more}",
        encoding="utf-8",
    )
    return path


# ---------------------------------------------------------------- the loss


def test_loss_by_hand(helpful: Path, tmp_path: Path) -> None:
    """Rewards (1.0, 0.0) with margin 0.5 and (0.2, 0.5) without: ln(1 + e^-0.5) = 0.4741 and ln(1 + e^0.3) = 0.8544,
    mean 0.6642. Centring at 0.01: 0.01 x ((1.0 + 0.0)^2 + (0.2 + 0.5)^2) / 2 = 0.00745."""
    import torch

    keep = Keep()
    rows = [pair(1, margin=0.5), pair(2)]
    trainer.reward(*trainer.load_scorer(helpful), rows, how(tmp_path, monitors=(keep,)), center=0.01)
    known = SimpleNamespace(logits=torch.tensor([[1.0], [0.2], [0.0], [0.5]]))
    batch = {"attention_mask": torch.ones(4, 1), "margin": torch.tensor([0.5, 0.0])}
    loss = keep.trainer.compute_loss(lambda **_: known, batch)
    assert float(loss) == pytest.approx(0.6642 + 0.00745, abs=1e-4)


def test_loss_against_brute_force(helpful: Path, tmp_path: Path) -> None:
    rows = [pair(i, margin=0.1 * i) for i in range(4)]
    model, tokenizer = trainer.load_scorer(helpful, seed=5)
    chosen, rejected = (
        np.array(trainer.score(model, tokenizer, [[*r["prompt"], *r[which]] for r in rows]))
        for which in ("chosen", "rejected")
    )
    margin = np.array([row["margin"] for row in rows])
    expected = np.log1p(np.exp(margin - chosen + rejected)).mean() + 0.5 * ((chosen + rejected) ** 2).mean()
    trained = trainer.reward(model, tokenizer, rows, how(tmp_path), center=0.5)
    assert trained.history[0]["loss"] == pytest.approx(expected, abs=1e-4)  # TRL logs four digits
    assert trained.history[0]["margin"] == pytest.approx((chosen - rejected).mean(), abs=1e-4)


def test_scores_do_not_depend_on_the_batch(helpful: Path) -> None:
    model, tokenizer = trainer.load_scorer(helpful)
    talks = [[*pair(i)["prompt"], *pair(i)["rejected"]] for i in range(5)]
    alone = [trainer.score(model, tokenizer, [talk])[0] for talk in talks]
    assert trainer.score(model, tokenizer, talks) == pytest.approx(alone, abs=1e-5)


def test_reward_head_survives_lora_save_and_reload(helpful: Path, tmp_path: Path) -> None:
    """The head is no adapter: saved as one, it would come back random."""
    rows = [pair(i) for i in range(16)]
    talks = [[*row["prompt"], *row["chosen"]] for row in rows]
    model, tokenizer = trainer.load_scorer(helpful)
    head = model.score.weight.detach().clone()
    tuned = trainer.Optimiser(batch=8, learning_rate=1e-2, warmup=0, epochs=2, precision="fp32")
    run = how(tmp_path / "work", tuned, lora=trainer.Lora(rank=2))
    trained = trainer.reward(model, tokenizer, rows, run, center=None)
    before = trainer.score(trained.model, tokenizer, talks)
    trainer.save(trained.model, tokenizer, tmp_path / "saved")
    again, _ = trainer.load_scorer(tmp_path / "saved", seed=99)
    assert trainer.score(again, tokenizer, talks) == pytest.approx(before, abs=1e-5)
    assert float((again.score.weight.detach() - head).abs().max()) > 1e-3  # it was trained
    assert before != pytest.approx(trainer.score(trainer.load_scorer(helpful)[0], tokenizer, talks), abs=1e-2)


# ---------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def ensemble(folder: Path, helpful: Path) -> Path:
    return reward.run(recipe(folder, "ensemble", "members: 2\n"))


def test_run_leaves_a_reward_model_and_its_report(folder: Path, ensemble: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    assert AutoModelForSequenceClassification.from_pretrained(ensemble).config.num_labels == 1
    report, *pairs = map(json.loads, (ensemble / "reward.jsonl").read_text().splitlines())
    assert report["pairs"] == {"trained": 60 - len(pairs), "held_out": len(pairs)}
    assert report["accuracy"]["n"] == len(pairs) >= 9
    assert report["accuracy"]["low"] < report["accuracy"]["accuracy"] <= report["accuracy"]["high"]
    assert report["accuracy"]["accuracy"] > 0.8  # the better answer is always the same
    assert len(report["members"]) == 2
    assert report["disagreement"]["mean"] > 0


def test_members_differ_and_are_named_in_the_lineage(ensemble: Path) -> None:
    own, other = lineage.sha256(ensemble / "model.safetensors"), lineage.sha256(ensemble / "member-1/model.safetensors")
    assert own != other
    assert lineage.read(ensemble).uses == {"member-1": other}


def test_finished_member_is_not_trained_again(folder: Path, helpful: Path) -> None:
    path, started = recipe(folder, "killed", "members: 2\n"), []

    class Killed(Monitor):
        def begin(self, now: Now) -> None:
            started.append(Path(now.trainer.args.output_dir).name)
            if started == ["member-1", "killed.work"]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward.run(path, Tools(monitors=lambda recipe, work: [Killed()]))
    made = reward.run(path, Tools(resume=True, monitors=lambda recipe, work: [Killed()]))
    assert started == ["member-1", "killed.work", "killed.work"]
    assert (made / "member-1" / "model.safetensors").is_file()


def test_evaluation_in_the_loop_is_refused(folder: Path, helpful: Path) -> None:
    with pytest.raises(ConfigError, match="answers nothing"):
        reward.run(recipe(folder, "asked", "evaluate: {suites: [pairs.jsonl]}\n"))


def test_like_requests_are_held_out_together() -> None:
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("pick a brass lock", "pick the brass lock")]
    rows += [{"prompt": [{"role": "user", "content": f"topic{i} word{i}"}]} for i in range(30)]
    for seed in range(20):
        training, held = reward.divide(rows, 0.2, seed)
        assert len(training) + len(held) == len(rows) and len(held) in (7, 8)
        assert (rows[0] in held) == (rows[1] in held)
    assert reward.divide(rows, 0.2, 1)[1] != reward.divide(rows, 0.2, 2)[1]
    with pytest.raises(DataError, match="too few"):
        reward.divide(rows[:2], 0.5, 0)


# ---------------------------------------------------------------- the report


def made(margin: float, tokens: tuple[int, int] = (5, 5), confidence: float = 1.0) -> Pair:
    return Pair(rewards=(margin, 0.0), tokens=tokens, confidence=confidence)


def test_calibration_counts_both_orders() -> None:
    """P = 0.8176, observed 1; twice 0.25, observed 0.5; turned round 0.1824, observed 0, and 0.75, 0.5."""
    miss = 1 / (1 + math.exp(1.5))
    pairs = [made(1.5), made(-math.log(3), confidence=0.5), made(-math.log(3), confidence=0.5)]
    found = reward_report.calibration(pairs)
    assert found["brier"] == pytest.approx((miss**2 + 2 * 0.25**2) / 3)
    assert found["ece"] == pytest.approx((miss + 2 * 0.25) / 3)
    assert [(b["from"], b["n"], b["observed"]) for b in found["bins"]] == [
        (0.1, 1, 0.0), (0.2, 2, 0.5), (0.7, 2, 0.5), (0.8, 1, 1.0)
    ]  # fmt: skip


def test_calibrated_probabilities_have_no_error() -> None:
    pairs = [made(math.log(3), confidence=0.75)] * 8
    found = reward_report.calibration(pairs)
    assert found["ece"] == pytest.approx(0, abs=1e-12) and found["brier"] == pytest.approx(0, abs=1e-12)


def test_model_that_counts_tokens_is_found_out() -> None:
    tokens = [(9, 4), (3, 8), (7, 2), (2, 6), (12, 5)]
    bias = reward_report.length_bias([Pair(rewards=(a / 10, b / 10), tokens=(a, b), confidence=1.0) for a, b in tokens])
    assert bias["all"] == pytest.approx(1) and bias["within"] == pytest.approx(1)
    assert bias["per_10_tokens"] == pytest.approx(1)
    assert (bias["better_is_longer"]["accuracy"], bias["better_is_longer"]["n"]) == (1.0, 3)
    assert (bias["better_is_shorter"]["accuracy"], bias["better_is_shorter"]["n"]) == (0.0, 2)


def test_model_blind_to_length_is_not() -> None:
    bias = reward_report.length_bias([made(1.0, (9, 4)), made(1.0, (4, 9)), made(1.0, (6, 6))])
    assert bias["within"] == pytest.approx(0)


def test_undecided_pairs_do_not_count_as_right_or_wrong() -> None:
    found = reward_report.accuracy([made(1.0), made(-1.0), made(2.0, confidence=0.5)])
    assert (found["accuracy"], found["n"]) == (0.5, 2)
    assert (found["low"], found["high"]) == (pytest.approx(0.0945, abs=1e-3), pytest.approx(0.9055, abs=1e-3))


def test_pair_that_is_rather_the_other_way_is_turned(helpful: Path) -> None:
    model, tokenizer = trainer.load_scorer(helpful)
    plain, turned = (reward_report.pairs(model, tokenizer, [pair(1, confidence=c)])[0] for c in (0.8, 0.2))
    assert turned.rewards == pytest.approx(plain.rewards[::-1], abs=1e-6)
    assert (plain.confidence, turned.confidence) == (0.8, pytest.approx(0.8))
