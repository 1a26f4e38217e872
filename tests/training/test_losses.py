"""Losses against numpy: log-probabilities by brute force, one sequence at a time, and the formulas of the papers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignstack.core.errors import ConfigError
from alignstack.training import losses, trainer

BETA = 0.3
RTOL = 1e-4
ASKED = ("the cat and a dog", "bake some bread with tea", "go near old house", "how do i find a dog")
GOOD = ("sure here is the cat and a dog", "here is bread", "sure go to the old house", "see near the house")
BAD = ("tea", "a dog went to see some bread with tea near old house", "i do", "bread bread tea")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = [
    {"prompt": user(x), "chosen": answer(y), "rejected": answer(z)} for x, y, z in zip(ASKED, GOOD, BAD, strict=True)
]


class Brute:
    """Log-probabilities of a checkpoint, in numpy and float64 from its logits on."""

    def __init__(self, checkpoint: Path) -> None:
        self.model, self.tokenizer = trainer.load(checkpoint)

    def tokens(self, prompt: list[dict[str, str]], said: list[dict[str, str]]) -> tuple[np.ndarray, int]:
        """log p of every token but the first, and how many of them, at the end, are the answer's."""
        import torch

        asked = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = self.tokenizer.apply_chat_template([*prompt, *said], return_dict=True)["input_ids"]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.array([logs[i - 1, ids[i]] for i in range(1, len(ids))]), len(ids) - len(asked)

    def answer(self, prompt: list[dict[str, str]], said: list[dict[str, str]]) -> np.ndarray:
        logs, n = self.tokens(prompt, said)
        return logs[-n:]

    def sums(self, side: str) -> np.ndarray:
        """log p(y | x) of each pair's answer."""
        return np.array([self.answer(row["prompt"], row[side]).sum() for row in PAIRS])

    def means(self, side: str) -> np.ndarray:
        """The same per token."""
        return np.array([self.answer(row["prompt"], row[side]).mean() for row in PAIRS])

    def lengths(self, side: str) -> np.ndarray:
        return np.array([len(self.answer(row["prompt"], row[side])) for row in PAIRS])


def logsigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def policy(helpful: Path) -> Brute:
    return Brute(helpful)


@pytest.fixture(scope="module")
def reference(base: Path) -> Brute:
    return Brute(base)


@pytest.fixture(scope="module")
def ratios(policy: Brute, reference: Brute) -> tuple[np.ndarray, np.ndarray]:
    """log p_policy(y|x) - log p_reference(y|x) of chosen and rejected answers."""
    chosen, rejected = (policy.sums(side) - reference.sums(side) for side in ("chosen", "rejected"))
    assert np.abs(chosen - rejected).min() > 0.01  # else every loss would be its value at 0
    return chosen, rejected


def how(work: Path, **more: Any) -> trainer.Run:
    """One step on all rows, in float32."""
    optimiser = trainer.Optimiser(batch=len(PAIRS), steps=1, learning_rate=1e-5, warmup=0, precision="fp32")
    return trainer.Run(work=work, seed=0, optimiser=optimiser, max_length=64, log_every=1, **more)


def first_loss(trained: trainer.Trained) -> float:
    return trained.history[0]["loss"]


def dpo_loss(work: Path, policy: Path, reference: Path, **settings: Any) -> float:
    """What TRL reports for the loss that a recipe names."""
    plan = losses.plan(losses.Preference(**{"beta": BETA, **settings}), "recipe.yaml")
    model, tokenizer = trainer.load(policy)
    return first_loss(trainer.dpo(model, trainer.load(reference)[0], tokenizer, PAIRS, how(work), **plan.settings))


def test_sft_is_the_mean_over_the_assistants_tokens(tmp_path: Path, helpful: Path, policy: Brute) -> None:
    """L = -sum_t log p(y_t | x, y_<t) / T over the T assistant's tokens of the batch, end marks included."""
    rows = [{"messages": [*row["prompt"], *row["chosen"]]} for row in PAIRS]
    logs = np.concatenate([policy.answer(row["prompt"], row["chosen"]) for row in PAIRS])
    found = first_loss(trainer.sft(*trainer.load(helpful), rows, how(tmp_path)))
    assert found == pytest.approx(-logs.mean(), rel=RTOL)


def test_dpo(tmp_path: Path, helpful: Path, base: Path, ratios: tuple[np.ndarray, np.ndarray]) -> None:
    """L = -log sigmoid(b (r_chosen - r_rejected)), r = log p_policy - log p_reference (Rafailov et al. 2023, eq. 7)."""
    chosen, rejected = ratios
    expected = -logsigmoid(BETA * (chosen - rejected)).mean()
    assert dpo_loss(tmp_path, helpful, base) == pytest.approx(expected, rel=RTOL)


def test_ipo(tmp_path: Path, helpful: Path, base: Path, policy: Brute, ratios: tuple[np.ndarray, np.ndarray]) -> None:
    """L = (h - 1 / (2 b))^2 (Azar et al. 2023, eq. 17), with h the difference of log-ratios per token: so TRL, which
    asked the authors."""
    chosen, rejected = ratios
    h = chosen / policy.lengths("chosen") - rejected / policy.lengths("rejected")
    expected = ((h - 1 / (2 * BETA)) ** 2).mean()
    assert dpo_loss(tmp_path, helpful, base, loss="ipo") == pytest.approx(expected, rel=RTOL)


def test_robust(tmp_path: Path, helpful: Path, base: Path, ratios: tuple[np.ndarray, np.ndarray]) -> None:
    """L = ((1 - e) A - e B) / (1 - 2 e), A the DPO loss, B that of the pair turned round: unbiased when a share e of
    the labels is wrong (Chowdhury et al. 2024, eq. 12)."""
    h = BETA * (ratios[0] - ratios[1])
    expected = ((0.9 * -logsigmoid(h) - 0.1 * -logsigmoid(-h)) / 0.8).mean()
    assert dpo_loss(tmp_path, helpful, base, loss="robust", label_smoothing=0.1) == pytest.approx(expected, rel=RTOL)


def test_cdpo(tmp_path: Path, helpful: Path, base: Path, ratios: tuple[np.ndarray, np.ndarray]) -> None:
    """L = (1 - e) A + e B (Mitchell 2023)."""
    h = BETA * (ratios[0] - ratios[1])
    expected = (0.9 * -logsigmoid(h) + 0.1 * -logsigmoid(-h)).mean()
    assert dpo_loss(tmp_path, helpful, base, loss="cdpo", label_smoothing=0.1) == pytest.approx(expected, rel=RTOL)


def test_hinge(tmp_path: Path, helpful: Path, base: Path, ratios: tuple[np.ndarray, np.ndarray]) -> None:
    """L = max(0, 1 - b (r_chosen - r_rejected)) (Zhao et al. 2023, SLiC; Liu et al. 2023, RSO)."""
    expected = np.maximum(0, 1 - BETA * (ratios[0] - ratios[1])).mean()
    assert dpo_loss(tmp_path, helpful, base, loss="hinge") == pytest.approx(expected, rel=RTOL)


def test_losses_add_up_with_their_weights(
    tmp_path: Path, helpful: Path, base: Path, policy: Brute, ratios: tuple[np.ndarray, np.ndarray]
) -> None:
    """DPO + 0.5 SFT, the latter the mean over all chosen answers' tokens of the batch."""
    logs = np.concatenate([policy.answer(row["prompt"], row["chosen"]) for row in PAIRS])
    expected = -logsigmoid(BETA * (ratios[0] - ratios[1])).mean() - 0.5 * logs.mean()
    found = dpo_loss(tmp_path, helpful, base, loss=["dpo", "sft"], loss_weights=[1.0, 0.5])
    assert found == pytest.approx(expected, rel=RTOL)


def test_kto(tmp_path: Path, helpful: Path, base: Path, policy: Brute, reference: Brute) -> None:
    """L = w_good (1 - sigmoid(b (r - z))) for good answers, w_bad (1 - sigmoid(b (z - r))) for bad ones, z = max(0,
    mean over the batch of r(x_i, y_(i-1))), the answers shifted by one (Ethayarajh et al. 2024, eq. 7 and 8)."""
    labels = [True, False, False, True]
    answers = [GOOD[0], BAD[1], BAD[2], GOOD[3]]
    rows = [
        {"prompt": user(x), "completion": answer(y), "label": good}
        for x, y, good in zip(ASKED, answers, labels, strict=True)
    ]

    def ratio(x: str, y: str) -> float:
        return float(policy.answer(user(x), answer(y)).sum() - reference.answer(user(x), answer(y)).sum())

    r = np.array([ratio(x, y) for x, y in zip(ASKED, answers, strict=True)])
    z = max(0.0, np.mean([ratio(x, y) for x, y in zip(ASKED, [answers[-1], *answers[:-1]], strict=True)]))
    each = np.where(labels, 1.2 * (1 - sigmoid(BETA * (r - z))), 0.7 * (1 - sigmoid(BETA * (z - r))))
    model, tokenizer = trainer.load(helpful)
    trained = trainer.kto(
        model, trainer.load(base)[0], tokenizer, rows, how(tmp_path), beta=BETA, desirable_weight=1.2,
        undesirable_weight=0.7,
    )  # fmt: skip
    assert first_loss(trained) == pytest.approx(each.mean(), rel=RTOL)
    assert trained.history[0]["kl"] == pytest.approx(z, rel=1e-3, abs=1e-4)


def test_orpo(tmp_path: Path, helpful: Path, policy: Brute) -> None:
    """L = L_SFT - l log sigmoid(log odds(chosen) - log odds(rejected)), odds = p / (1 - p), p the mean per token (Hong
    et al. 2024, eq. 6 and 7). TRL's L_SFT is over request and answer, as in the authors' code."""
    logs = np.concatenate([policy.tokens(row["prompt"], row["chosen"])[0] for row in PAIRS])
    chosen, rejected = policy.means("chosen"), policy.means("rejected")
    odds = (chosen - np.log1p(-np.exp(chosen))) - (rejected - np.log1p(-np.exp(rejected)))
    expected = -logs.mean() - 0.2 * logsigmoid(odds).mean()
    plan = losses.plan(losses.Preference(loss="orpo", beta=0.2), "recipe.yaml")
    found = first_loss(trainer.orpo(*trainer.load(helpful), PAIRS, how(tmp_path), **plan.settings))
    assert found == pytest.approx(expected, rel=RTOL)


def test_simpo(tmp_path: Path, helpful: Path, policy: Brute) -> None:
    """L = -log sigmoid(b m_chosen - b m_rejected - g), m the mean log p per token (Meng et al. 2024, eq. 6)."""
    expected = -logsigmoid(2.0 * (policy.means("chosen") - policy.means("rejected")) - 0.8).mean()
    plan = losses.plan(losses.Preference(loss="simpo", gamma=0.8), "recipe.yaml")
    found = first_loss(trainer.cpo(*trainer.load(helpful), PAIRS, how(tmp_path), **plan.settings))
    assert found == pytest.approx(expected, rel=RTOL)


def test_cpo(tmp_path: Path, helpful: Path, policy: Brute) -> None:
    """L = -log sigmoid(b (log p(chosen) - log p(rejected))) + SFT on the chosen answer (Xu et al. 2024, eq. 5)."""
    logs = np.concatenate([policy.answer(row["prompt"], row["chosen"]) for row in PAIRS])
    expected = -logsigmoid(BETA * (policy.sums("chosen") - policy.sums("rejected"))).mean() - logs.mean()
    plan = losses.plan(losses.Preference(loss="cpo", beta=BETA), "recipe.yaml")
    found = first_loss(trainer.cpo(*trainer.load(helpful), PAIRS, how(tmp_path), **plan.settings))
    assert found == pytest.approx(expected, rel=RTOL)


# fmt: off
EVERY = (
    "dpo", "cdpo", "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm",
)
# fmt: on


@pytest.mark.parametrize("loss", EVERY)
def test_every_loss_starts_where_it_is_expected_to(loss: str, tmp_path: Path, base: Path) -> None:
    """With the reference as policy, in the precision of the recipes."""
    smoothing = 0.1 if loss in losses.NEED_SMOOTHING else 0.0
    plan = losses.plan(losses.Preference(loss=loss, label_smoothing=smoothing), "recipe.yaml")
    model, tokenizer = trainer.load(base)
    run = how(tmp_path)
    trained = trainer.dpo(model, trainer.load(base)[0], tokenizer, PAIRS, run, **plan.settings)
    assert plan.at_start is not None
    assert first_loss(trained) == pytest.approx(plan.at_start, rel=RTOL)


def test_the_start_of_a_mixture_with_sft_is_not_known() -> None:
    assert losses.plan(losses.Preference(loss=["dpo", "sft"]), "r.yaml").at_start is None
    mixed = losses.plan(losses.Preference(loss=["dpo", "hinge"], loss_weights=[2.0, 0.5]), "r.yaml").at_start
    assert mixed == pytest.approx(2 * math.log(2) + 0.5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "simp"}, r"loss: no loss 'simp'; did you mean 'simpo'\?.*there are: dpo, .*apo_zero"),
        ({"loss": ["dpo", "orpo"]}, "'orpo' has no reference and stands alone"),
        ({"loss": "sft"}, "alignstack train sft"),
        ({"loss": ["dpo", "sft"], "loss_weights": [1.0]}, "1 weights for 2 losses"),
        ({"loss": "robust"}, "label_smoothing: 'robust' needs the share of labels"),
        ({"loss": "exo_pair"}, "label_smoothing: 'exo_pair' needs 1.0e-3"),
        ({"loss": "dpo", "label_smoothing": 0.1}, "no loss here reads it"),
        ({"loss": "dpo", "gamma": 0.5}, "gamma: only `simpo` reads it"),
        ({"loss": "simpo", "beta": 2.0, "gamma": 2.5}, "gamma: above beta"),
        ({"loss": "dpo", "sft_weight": 0.5}, "sft_weight: only `cpo` and `simpo`"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        losses.plan(losses.Preference(**settings), "recipe.yaml")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        losses.plan(losses.Preference(loss=["dop", "orpo"], label_smoothing=0.2, gamma=0.1), "recipe.yaml")
    assert len(error.value.problems) == 4


def test_without_beta_the_papers_is_taken() -> None:
    plan: Callable[[str], losses.Plan] = lambda loss: losses.plan(losses.Preference(loss=loss), "recipe.yaml")  # noqa: E731
    assert [plan(loss).beta for loss in ("dpo", "simpo", "bco_pair")] == [0.1, 2.0, 0.01]
