import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignstack.core.errors import ConfigError
from alignstack.training import lineage, rlhf, trainer
from alignstack.training.constraint import Constraint, Lagrangian
from alignstack.training.monitor import Monitor, Now
from alignstack.training.stage import Tools

from .conftest import some_text, write_jsonl
from .test_reward import Keep
from .test_reward import recipe as reward_recipe

STILL = trainer.Optimiser(batch=8, learning_rate=1e-12, warmup=0, steps=1, precision="fp32", weight_decay=0.0)
SHORT = {"num_generations": 4, "max_completion_length": 8, "temperature": 1.0}


def rows(n: int = 8) -> list[dict[str, Any]]:
    return [
        {"prompt": [{"role": "user", "content": some_text(i, 4)}], "label": ("harmful", "benign")[i % 2]}
        for i in range(n)
    ]


class Batch:
    """A reward that remembers what it was given: counts a token, so that rewards differ."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.prompts: list[Any] = []
        self.rewards: list[float] = []

    def __call__(self, *, prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.prompts, self.ids = prompts, [list(ids) for ids in completion_ids]
        self.rewards = [len(set(ids)) / 3 + 0.1 * i for i, ids in enumerate(self.ids)]
        return self.rewards


def moved(checkpoint: Path) -> tuple[Any, Any]:
    """A policy that is not its reference, which TRL reads from the folder."""
    import torch

    model, tokenizer = trainer.load(checkpoint)
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    return model, tokenizer


def logps(model: Any, tokenizer: Any, prompt: Any, ids: Sequence[int]) -> np.ndarray:
    """Log-probability of each answer token, one sequence at a time, without padding."""
    import torch

    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*start, *ids]])).logits[0, len(start) - 1 : -1].double()
    return logits.log_softmax(-1)[range(len(ids)), list(ids)].numpy()


def one_step(
    algorithm: Any, checkpoint: Path, work: Path, **settings: Any
) -> tuple[dict[str, float], Batch, list[np.ndarray], list[np.ndarray]]:
    """What TRL logs of one step, the batch, and brute-force log-probabilities by policy and reference."""
    model, tokenizer = moved(checkpoint)
    batch = Batch()
    run = trainer.Run(work=work, seed=1, optimiser=STILL, log_every=1)
    trained = trainer.policy_gradient(
        algorithm, model, tokenizer, rows(), run, rewards={"count": batch}, weights=[1.0], **{**SHORT, **settings}
    )
    reference, _ = trainer.load(checkpoint)
    made = list(zip(batch.prompts, batch.ids, strict=True))
    by_policy = [logps(trained.model, tokenizer, *one) for one in made]
    return trained.history[0], batch, by_policy, [logps(reference, tokenizer, *one) for one in made]


def by_group(values: Sequence[float]) -> np.ndarray:
    return np.array(values).reshape(-1, 4)


# ---------------------------------------------------------------- the step against brute force


@pytest.mark.parametrize("scale", ["group", "none"])
def test_grpo_step_against_brute_force(helpful: Path, tmp_path: Path, scale: str) -> None:
    """Advantage: (r - mean) / (std + 1e-4) of the group, std of a sample; loss of a token on its own policy:
    -advantage + β k3, with k3 = exp(d) - d - 1 >= 0 for d = log p_ref - log p (Schulman 2020); mean over all tokens."""
    beta = 0.3
    log, batch, policy, reference = one_step("grpo", helpful, tmp_path, beta=beta, scale_rewards=scale)
    grouped = by_group(batch.rewards)
    advantage = grouped - grouped.mean(1, keepdims=True)
    if scale == "group":
        advantage /= grouped.std(1, ddof=1, keepdims=True) + 1e-4
    distance = [r - p for r, p in zip(reference, policy, strict=True)]
    k3 = [np.exp(d) - d - 1 for d in distance]
    tokens = [-a + beta * k for a, k in zip(advantage.ravel(), k3, strict=True)]
    assert log["loss"] == pytest.approx(np.concatenate(tokens).mean(), abs=1e-4)
    assert log["kl"] == pytest.approx(np.concatenate(k3).mean(), abs=1e-4)
    assert log["kl"] > 0 and all((k >= 0).all() for k in k3)
    assert log["reward"] == pytest.approx(np.mean(batch.rewards), abs=1e-4)
    assert log["reward_std"] == pytest.approx(np.std(batch.rewards, ddof=1), abs=1e-4)


def test_rloo_step_against_brute_force(helpful: Path, tmp_path: Path) -> None:
    """Reward less β times the answer's log ratio, summed over its tokens; baseline: mean of the other answers; on its
    own policy the ratio is 1 and the loss -advantage, whose mean over a group is 0."""
    beta = 0.3
    log, batch, policy, reference = one_step("rloo", helpful, tmp_path, beta=beta)
    ratio = [p - r for p, r in zip(policy, reference, strict=True)]
    paid = by_group([reward - beta * k.sum() for reward, k in zip(batch.rewards, ratio, strict=True)])
    others = (paid.sum(1, keepdims=True) - paid) / 3
    assert log["loss"] == pytest.approx(-(paid - others).mean(), abs=1e-4)
    assert log["kl"] == pytest.approx(np.concatenate(ratio).mean(), abs=1e-4)


def held(algorithm: Any, checkpoint: Path, work: Path, **settings: Any) -> Any:
    """TRL's trainer after one idle step."""
    keep = Keep()
    model, tokenizer = trainer.load(checkpoint)
    run = trainer.Run(work=work, seed=1, optimiser=STILL, monitors=(keep,))
    trainer.policy_gradient(
        algorithm, model, tokenizer, rows(), run, rewards={"count": Batch()}, weights=[1.0], **{**SHORT, **settings}
    )
    return keep.trainer


def known(now: Sequence[float], monkeypatch: pytest.MonkeyPatch, trained: Any) -> None:
    """From here on the policy gives the one answer of two tokens these log-probabilities."""
    import torch

    values = torch.tensor([list(now)])
    monkeypatch.setattr(
        trained, "_get_per_token_logps_and_entropies", lambda *_, **__: (values, torch.zeros_like(values), None)
    )


def inputs(advantage: float, **more: Any) -> dict[str, Any]:
    import torch

    ones = torch.ones(1, 2, dtype=torch.long)
    ids = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), ones)
    return ids | {"advantages": torch.tensor([advantage]), "num_items_in_batch": torch.tensor(2)} | more


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        # ratios e^0.4 = 1.4918, clipped to 1.2, and e^-0.5 = 0.6065, clipped to 0.8
        (2.0, -(1.2 * 2 + 0.6065 * 2) / 2),  # min(1.4918, 1.2) and min(0.6065, 0.8)
        (-2.0, (1.4918 * 2 + 0.8 * 2) / 2),  # a bad answer's rise is not clipped, its fall is
    ],
)
def test_grpo_clips_the_ratio_by_hand(
    helpful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advantage: float, expected: float
) -> None:
    import torch

    trained = held("grpo", helpful, tmp_path, beta=0.0, loss_type="grpo")
    known((-0.6, -1.5), monkeypatch, trained)
    batch = inputs(advantage, old_per_token_logps=torch.tensor([[-1.0, -1.0]]))
    assert float(trained._compute_loss(trained.model, batch)) == pytest.approx(expected, abs=1e-3)


def test_grpo_kl_by_hand(helpful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """d = log p_ref - log p = 0.5 and -0.5: e^0.5 - 0.5 - 1 = 0.1487 and e^-0.5 + 0.5 - 1 = 0.1065; β 0.1, advantage 0:
    0.1 x 0.1276. Moving away from the reference costs in either direction."""
    import torch

    trained = held("grpo", helpful, tmp_path, beta=0.1, loss_type="grpo")
    known((-1.0, -1.0), monkeypatch, trained)
    batch = inputs(0.0, ref_per_token_logps=torch.tensor([[-0.5, -1.5]]))
    assert float(trained._compute_loss(trained.model, batch)) == pytest.approx(0.01276, abs=1e-5)


def test_rloo_clips_the_answers_ratio_by_hand(helpful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole answer has one ratio, e^(-2.1 + 2.4) = 1.3499, clipped to 1.2; advantage 2."""
    import torch

    trained = held("rloo", helpful, tmp_path, beta=0.0)
    known((-0.6, -1.5), monkeypatch, trained)
    assert float(trained._compute_loss(trained.model, inputs(2.0, old_logps=torch.tensor([-2.4])))) == pytest.approx(
        -2.4, abs=1e-4
    )


# ---------------------------------------------------------------- the budget on a real policy


def harm(model: Any, tokenizer: Any) -> np.ndarray:
    """Probability that the answer's only token has an even id, for each row."""
    import torch

    found = []
    for row in rows(2):
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        with torch.no_grad():
            found.append(float(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[0::2].sum()))
    return np.array(found)


def test_harm_rate_settles_at_the_budget(helpful: Path, tmp_path: Path) -> None:
    """An answer is one token; when its id is even it is harmful, and paid for. The policy that maximises
    (1 - λ)/(1 + λ) P(even) - β KL has logit P(even) = logit P_ref(even) + (1 - λ) / ((1 + λ) β), and λ* is where the
    mean of P(even) is the budget."""
    from scipy.optimize import brentq

    def paid(*, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[0] % 2 == 0) for ids in completion_ids]

    def harmless(*, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[0] % 2) for ids in completion_ids]

    beta, budget = 0.5, 0.3
    odds = np.log(1 / harm(*trainer.load(helpful)) - 1)
    best = brentq(lambda m: (1 / (1 + np.exp(odds - (1 - m) / (1 + m) / beta))).mean() - budget, 0, 20)
    monitor = Lagrangian(
        Constraint(reward="harmless", budget=budget, rate=0.5, start=0.0, window=1), ("paid", "harmless"), (1.0, 1.0)
    )
    optimiser = trainer.Optimiser(
        batch=64, learning_rate=3e-3, warmup=0, steps=60, schedule="constant", precision="fp32", weight_decay=0.0
    )
    run = trainer.Run(work=tmp_path, seed=1, optimiser=optimiser, log_every=1, monitors=(monitor,))
    model, tokenizer = trainer.load(helpful)
    trained = trainer.policy_gradient(
        "rloo", model, tokenizer, rows(2), run, rewards={"paid": paid, "harmless": harmless},
        weights=[1.0, 1.0], num_generations=32, max_completion_length=1, beta=beta,
    )  # fmt: skip
    rates = [1 - entry["rewards/harmless/mean"] for entry in trained.history if "rewards/harmless/mean" in entry]
    assert sum(rates[-30:]) / 30 == pytest.approx(budget, abs=0.05)
    assert harm(trained.model, tokenizer).mean() == pytest.approx(budget, abs=0.1)
    assert monitor.multiplier.value == pytest.approx(best, abs=0.5)


# ---------------------------------------------------------------- whole runs


RECIPE = """
name: {name}
parent: helpful
out: {name}
data: [prompts.jsonl]
seed: 5
rewards: {rewards}
generations: 2
max_tokens: 12
optimiser: {{batch: 8, learning_rate: 1.0e-3, warmup: 0, steps: 6, precision: fp32, weight_decay: 0.0}}
{more}
"""
BOTH = "[{use: judge, judge: {use: compliance}, side: helpful}, {use: judge, judge: {use: compliance}, side: harmless}]"


@pytest.fixture
def written(folder: Path, helpful: Path) -> Callable[..., Path]:
    suite = [{"text": f"{some_text(i, 5)} {i}", "label": ("harmful", "benign")[i % 2]} for i in range(40)]
    write_jsonl(folder / "prompts.jsonl", suite)

    def write(name: str, more: str = "", rewards: str = "[{use: length, per_token: 0.1}, {use: format}]") -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(RECIPE.format(name=name, rewards=rewards, more=more), encoding="utf-8")
        return path

    return write


def test_run_leaves_a_checkpoint_that_knows_its_reward_model(folder: Path, written: Callable[..., Path]) -> None:
    from alignstack.training import reward

    paid_by = reward.run(reward_recipe(folder, "paid-by"))
    made = rlhf.run(written("by-model", "algorithm: rloo", "[{use: model, checkpoint: paid-by}, {use: format}]"))
    stage = lineage.read(made)
    assert (stage.method, stage.steps) == ("rlhf", 6)
    assert stage.uses == {"model": lineage.sha256(paid_by / lineage.WEIGHTS)}
    trainer.load(made)


def test_killed_run_goes_on_as_if_nothing_had_been(written: Callable[..., Path]) -> None:
    """Multiplier, β and the watch's memory are part of the state."""
    more = "algorithm: rloo\nsave_every: 2\nkl: {target: 1.0}\nconstraint: {reward: harmless, budget: 0.5}\n"

    class Killed(Monitor):
        def step(self, now: Now) -> None:
            if now.step == 5:
                raise KeyboardInterrupt

    whole = rlhf.run(written("whole", more, BOTH))
    cut = written("cut", more, BOTH)
    with pytest.raises(KeyboardInterrupt):
        rlhf.run(cut, Tools(monitors=lambda recipe, work: [Killed()]))
    seen: list[Mapping[str, float]] = []

    class Log(Monitor):
        def log(self, now: Now, values: Mapping[str, float]) -> None:
            seen.append({name: values[name] for name in values if name.startswith(("constraint", "kl_beta"))})

    again = rlhf.run(cut, Tools(resume=True, monitors=lambda recipe, work: [Log()]))
    assert lineage.read(again).weights == lineage.read(whole).weights
    assert seen[0]["constraint/multiplier"] != 1.0 and seen[0]["kl_beta"] != 0.05


def test_rows_that_nobody_scores_are_an_error(written: Callable[..., Path]) -> None:
    only = "[{use: judge, judge: {use: compliance}, side: harmless}]"
    with pytest.raises(ConfigError, match="none scores answers to benign requests"):
        rlhf.run(written("one-sided", rewards=only))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("constraint: {reward: harmles, budget: 0.1}", "no reward 'harmles'; there are length, format"),
        ("beta: 0\nkl: {target: 1.0}", "starts from `beta`"),
        ("algorithm: ppo", "grpo"),
    ],
)
def test_recipes_that_cannot_mean_anything_are_errors(written: Callable[..., Path], more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rlhf.run(written("wrong", more))


def test_batch_must_hold_whole_groups(written: Callable[..., Path]) -> None:
    path = written("groups")
    path.write_text(path.read_text().replace("generations: 2", "generations: 3"))
    with pytest.raises(ConfigError, match="no multiple of `generations: 3`"):
        rlhf.run(path)


def test_metrics_name_what_the_watch_saw(written: Callable[..., Path]) -> None:
    seen: list[Mapping[str, float]] = []

    class Log(Monitor):
        def log(self, now: Now, values: Mapping[str, float]) -> None:
            seen.append(values)

    more = "watch: {judge: {use: compliance}, prompts: [prompts.jsonl], every: 3, limit: 8, max_tokens: 8}\n"
    with pytest.raises(Exception, match="no row is left"):  # the judge's prompts are not trained on
        rlhf.run(written("watched", more))
    other = [{"text": f"why is {i} so", "label": ("harmful", "benign")[i % 2]} for i in range(8)]
    write_jsonl(written("x").parent / "other.jsonl", other)
    rlhf.run(written("watched", more.replace("prompts.jsonl", "other.jsonl")),
             Tools(monitors=lambda recipe, work: [Log()]))  # fmt: skip
    assert {"answers/distinct", "answers/alike", "watch/score", "watch/helpful", "kl"} <= set(seen[0])
    assert json.loads(json.dumps(seen[0]["watch/score"])) <= 1
