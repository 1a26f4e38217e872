import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignstack.training.constraint import Constraint, Lagrangian, Multiplier
from alignstack.training.monitor import Now

NAMES = ("helpful", "harmless", "format")


def now(weights: Any) -> Now:
    return Now(step=1, steps=9, epoch=0.0, trainer=SimpleNamespace(reward_weights=weights))


def test_multiplier_grows_by_what_exceeds_the_budget_and_stays_in_its_range() -> None:
    multiplier = Multiplier(Constraint(reward="harmless", budget=0.1, rate=0.5, start=1.0, window=1, most=1.3))
    assert multiplier.update(0.3) == pytest.approx(1.1)  # 1 + 0.5 x 0.2
    assert multiplier.update(0.9) == 1.3
    assert [multiplier.update(0.0) for _ in range(30)][-1] == 0.0


def test_cost_is_averaged_over_the_window() -> None:
    multiplier = Multiplier(Constraint(reward="harmless", budget=0.0, rate=1.0, start=0.0, window=2))
    assert [multiplier.update(cost) for cost in (0.2, 0.4, 0.0)] == pytest.approx([0.2, 0.5, 0.7])


def test_weights_are_normalised() -> None:
    multiplier = Multiplier(Constraint(reward="harmless", budget=0.1, start=3.0))
    assert multiplier.weights(NAMES, (1.0, 9.0, 0.5)) == pytest.approx([0.25, 0.75, 0.125])


def test_trainers_weights_follow_the_logged_reward() -> None:
    import torch

    weights = torch.tensor([1.0, 1.0, 0.5])
    monitor = Lagrangian(Constraint(reward="harmless", budget=0.1, rate=1.0, window=1), NAMES, (1.0, 1.0, 0.5))
    monitor.begin(now(weights))
    assert weights.tolist() == pytest.approx([0.5, 0.5, 0.25])
    monitor.log(now(weights), {"rewards/harmless/mean": 0.4})  # cost 0.6, λ 1.5
    assert weights.tolist() == pytest.approx([0.4, 0.6, 0.2])
    monitor.log(now(weights), {"rewards/helpful/mean": 0.4, "rewards/harmless/mean": math.nan})
    assert weights.tolist() == pytest.approx([0.4, 0.6, 0.2])  # a batch without harmful requests says nothing


def test_multiplier_survives_a_kill() -> None:
    import torch

    config = Constraint(reward="harmless", budget=0.1, window=3)
    before, after = (Lagrangian(config, NAMES, (1.0, 1.0, 1.0)) for _ in range(2))
    values = [{"rewards/harmless/mean": reward} for reward in (0.2, 0.5, 0.9, 0.1, 0.3)]
    for value in values[:3]:
        before.log(now(torch.ones(3)), value)
    after.restore(before.state())
    for monitor in (before, after):
        for value in values[3:]:
            monitor.log(now(torch.ones(3)), value)
    assert after.state() == before.state()


# A bandit whose arms are helpful and harmful by turns. The policy starts uniform and pays 0.2 nats^-1 for leaving it.
REWARD = np.array([1.0, 0.7, 0.5, 0.0])
COST = np.array([0.9, 0.4, 0.1, 0.0])
BETA, BUDGET = 0.2, 0.2


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def optimum() -> tuple[float, np.ndarray]:
    """λ* and the policy that maximise (R - λ C) / (1 + λ) - β KL(p || uniform) with E[C] = budget: the policy is
    softmax((R - λ C) / ((1 + λ) β)), λ* is where its cost meets the budget."""
    from scipy.optimize import brentq

    def policy(multiplier: float) -> np.ndarray:
        return softmax((REWARD - multiplier * COST) / ((1 + multiplier) * BETA))

    multiplier = float(brentq(lambda value: policy(value) @ COST - BUDGET, 0, 20))
    return multiplier, policy(multiplier)


def climb(constraint: Constraint, steps: int) -> tuple[float, np.ndarray]:
    """The run's own update: policy gradient on the weighted rewards, then the multiplier by the mean cost."""
    multiplier, logits = Multiplier(constraint), np.zeros(4)
    for _ in range(steps):
        policy = softmax(logits)
        helpful, harmless = multiplier.weights(("helpful", "harmless"), (1.0, 1.0))
        value = helpful * REWARD + harmless * (1 - COST) - BETA * np.log(policy * 4)
        logits += 0.5 * policy * (value - policy @ value)
        multiplier.update(float(policy @ COST))
    return multiplier.value, softmax(logits)


def test_known_optimum_of_a_bandit_is_found() -> None:
    multiplier, policy = optimum()
    found, learnt = climb(Constraint(reward="harmless", budget=BUDGET, rate=0.05, start=0.0, window=1), 6000)
    assert found == pytest.approx(multiplier, rel=0.01)
    assert learnt == pytest.approx(policy, abs=0.005)
    assert learnt @ COST == pytest.approx(BUDGET, abs=0.002)


def test_optimum_is_that_of_the_constrained_problem() -> None:
    """No policy within the budget does better: λ* solves max E[R] - (1 + λ*) β KL subject to E[C] <= budget."""
    from scipy.optimize import minimize

    multiplier, policy = optimum()

    def loss(logits: np.ndarray) -> float:
        p = softmax(logits)
        return float(-(p @ REWARD) + (1 + multiplier) * BETA * (p @ np.log(p * 4)))

    bound = {"type": "ineq", "fun": lambda logits: BUDGET - softmax(logits) @ COST}
    best = softmax(minimize(loss, np.zeros(4), constraints=[bound], method="SLSQP").x)
    assert best == pytest.approx(policy, abs=0.002)


def test_budget_that_binds_nobody_ends_at_zero() -> None:
    found, learnt = climb(Constraint(reward="harmless", budget=0.9, rate=0.05, start=1.0, window=1), 2000)
    assert found == 0.0
    assert learnt == pytest.approx(softmax(REWARD / BETA), abs=0.005)
