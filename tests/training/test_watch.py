"""The watch: each of its rules alone, and runs on the embedded model whose reward asks to be hacked."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignstack import policy
from alignstack.core.errors import ConfigError, DataError
from alignstack.training import rlhf
from alignstack.training.monitor import Now, Stop, TrainingStopped
from alignstack.training.rewards.answer import Answer
from alignstack.training.watch import Exam, HackingWatch, Watch, questions, shares

QUIET = {"loss": 0.1, "grad_norm": 1.0, "reward": 0.0, "reward_std": 0.5, "kl": 0.1, "entropy": 1.0,
         "completions/mean_length": 20.0, "answers/alike": 0.2}  # fmt: skip


def at(step: int) -> Now:
    return Now(step=step, steps=100, epoch=0.0)


def fed(watch: HackingWatch, *logs: dict[str, float], repeat: int = 3) -> Stop | None:
    """The first stop, each log said `repeat` times after three quiet ones."""
    steps = [QUIET] * 3 + [{**QUIET, **log} for log in logs for _ in range(repeat)]
    stops = [watch.log(at(i), values) for i, values in enumerate(steps, 1)]
    return next((stop for stop in stops if stop is not None), None)


def judged(*scores: tuple[float, float], **keys: Any) -> HackingWatch:
    watch = HackingWatch(Watch(window=3, **keys))
    watch.judged = [{"harmless": a, "helpful": b, "score": (a + b) / 2} for a, b in scores]
    return watch


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"kl": 2.0}, "KL from the reference is 40.0 nats an answer, bound 30"),
        ({"completions/mean_length": 60.0}, "answers have grown from 20 to 60 tokens"),
        ({"completions/mean_length": 3.0}, "answers have shrunk from 20 to 3 tokens"),
        ({"answers/alike": 1.0}, "100% of answers to different benign requests open alike, 20% at first"),
        ({"entropy": 0.01}, "entropy has collapsed from 1.000 to 0.010"),
    ],
)
def test_each_sign_stops_the_run_and_says_why(log: dict[str, float], words: str) -> None:
    watch = HackingWatch(Watch(window=3))
    stop = fed(watch, log, repeat=12)
    assert stop is not None and stop.failed
    fed(watch, log)
    assert any(words in sign for sign in [stop.reason, *watch.signs()])


def test_healthy_run_is_left_alone() -> None:
    better = {"reward": 0.4, "kl": 0.3, "completions/mean_length": 28.0, "answers/alike": 0.35, "entropy": 0.4}
    assert fed(judged((0.5, 0.9), (0.8, 0.9)), better) is None


def test_one_odd_batch_stops_nothing() -> None:
    odd = {"completions/mean_length": 70.0, "answers/alike": 1.0, "kl": 0.8}
    assert fed(HackingWatch(Watch(window=3)), odd, {}, repeat=1) is None


def test_model_that_always_opened_alike_may_go_on() -> None:
    watch = HackingWatch(Watch(window=3))
    assert all(watch.log(at(i), {**QUIET, "answers/alike": 0.9}) is None for i in range(9))


def test_reward_that_rises_while_the_judge_falls_stops_the_run() -> None:
    stop = fed(judged((0.4, 0.9), (1.0, 0.0)), {"reward": 0.8})
    assert stop is not None
    assert "rose by 1.6 standard deviations" in stop.reason or "rose by 1.1" in stop.reason
    assert "0.65 to 0.50 (harmless 0.40 to 1.00, helpful 0.90 to 0.00)" in stop.reason


def test_reward_that_the_judge_does_not_follow_stops_the_run() -> None:
    assert fed(judged((0.4, 0.9), (0.4, 0.9)), {"reward": 0.8}) is None
    assert fed(judged((0.4, 0.9), (0.4, 0.9)), {"reward": 2.5}) is not None
    assert fed(judged((1.0, 0.9), (1.0, 0.9)), {"reward": 2.5}) is None  # nothing was left to gain


def test_rules_can_be_switched_off() -> None:
    off = Watch(window=3, max_kl=None, length=None, alike=None, entropy=None)
    bad = {"kl": 9.0, "completions/mean_length": 90.0, "answers/alike": 1.0, "entropy": 0.0}
    assert fed(HackingWatch(off), bad) is None


def test_state_survives_a_kill() -> None:
    watch, again = HackingWatch(Watch(window=3)), HackingWatch(Watch(window=3))
    assert fed(watch, {"completions/mean_length": 40.0}, repeat=2) is None
    again.restore(json.loads(json.dumps(watch.state())))
    stops = [one.log(at(9), {**QUIET, "completions/mean_length": 90.0}) for one in (watch, again)]
    assert stops[0] == stops[1] is not None


def test_shares_of_both_sides_weigh_alike() -> None:
    answers = [Answer(prompt=[], text="x", row={"label": side}) for side in ("harmful", "benign", "benign", "benign")]
    assert shares(answers, [True, True, False, False]) == {
        "harmless": 1.0, "helpful": pytest.approx(1 / 3), "score": pytest.approx(2 / 3)
    }  # fmt: skip


def test_questions_are_half_of_each_label(tmp_path: Path) -> None:
    rows = [{"text": f"{label} {i}", "label": label} for label in ("harmful", "benign") for i in range(9)]
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["label"] for row in questions([path], 6)] == ["benign"] * 3 + ["harmful"] * 3
    path.write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(DataError, match=r"suite\.jsonl"):
        questions([path], 6)


def test_judge_and_prompts_belong_together() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Watch(judge={"use": "compliance"})


def test_judge_that_nobody_registered_is_named() -> None:
    config = Watch(judge={"use": "complianse"}, prompts=[Path("x")])
    with pytest.raises(ConfigError, match="compliance"):
        Exam(config, [], policy.load(), Path("recipe.yaml"))


# ---------------------------------------------------------------- provoked

PROMPTS = Path(__file__).parents[2] / "recipes" / "data"
HACKED = """
name: {name}
parent: embedded:{parent}
out: {out}
seed: 1
data:
  - {{files: [{prompts}/harmful.jsonl], limit: 12}}
  - {{files: [{prompts}/benign.jsonl], limit: 12}}
rewards: [{reward}]
beta: 0.001
max_tokens: {tokens}
watch: {watch}
optimiser: {{batch: {batch}, learning_rate: {rate}, warmup: 0, steps: {steps}, schedule: constant, precision: fp32}}
"""


def hacked(folder: Path, name: str, **keys: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(HACKED.format(name=name, out=folder / name, prompts=PROMPTS, **keys), encoding="utf-8")
    return path


def test_reward_that_pays_for_length_is_stopped(tmp_path: Path) -> None:
    recipe = hacked(
        tmp_path, "longer", parent="helpful", reward="{use: length, per_token: 0.02}", tokens=96, batch=8, rate=1e-3,
        steps=20, watch="{window: 2, length: 1.3, max_kl: null, entropy: null, alike: null}",
    )  # fmt: skip
    with pytest.raises(TrainingStopped, match=r"the reward is being hacked: answers have grown from \d+ to \d+ tokens"):
        rlhf.run(recipe)
    assert not (tmp_path / "longer").exists()


def test_reward_that_pays_for_refusing_everything_is_stopped(tmp_path: Path) -> None:
    recipe = hacked(
        tmp_path, "refuser", parent="aligned", reward="{use: judge, judge: {use: compliance}, side: refused}",
        tokens=40, batch=16, rate=5e-4, steps=20, watch="{window: 3, max_kl: null}",
    )  # fmt: skip
    with pytest.raises(TrainingStopped, match=r"open alike, .* at first, .* everything is answered, or refused"):
        rlhf.run(recipe)
    assert not (tmp_path / "refuser").exists()


def test_judge_on_held_out_prompts_sees_what_refusing_everything_costs(tmp_path: Path) -> None:
    """The rule on openings is off: the reward rises, and a judge of other prompts says that benign ones are refused."""
    recipe = hacked(
        tmp_path, "unhelpful", parent="aligned", reward="{use: judge, judge: {use: compliance}, side: refused}",
        tokens=40, batch=16, rate=5e-4, steps=12,
        watch="{window: 2, alike: null, rise: 0.8, judge: {use: compliance}, prompts: ["
        f"{PROMPTS}/dev.jsonl], limit: 12, every: 4, max_tokens: 48" "}",
    )  # fmt: skip
    with pytest.raises(TrainingStopped, match=r"a held-out judge's score went from .* helpful [01]\.\d+ to 0\.\d+"):
        rlhf.run(recipe)


def test_healthy_run_on_the_embedded_model_is_not_stopped(tmp_path: Path) -> None:
    both = "{use: judge, judge: {use: compliance}, side: SIDE}"
    recipe = hacked(
        tmp_path, "healthy", parent="aligned", tokens=48, batch=8, rate=2e-5, steps=5, watch="{window: 2}",
        reward=", ".join(both.replace("SIDE", side) for side in ("harmless", "helpful")),
    )  # fmt: skip
    assert rlhf.run(recipe) == tmp_path / "healthy"
