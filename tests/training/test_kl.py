from types import SimpleNamespace

import pytest

from alignstack.training.kl import AdaptiveKL, Controller
from alignstack.training.monitor import Now


def test_beta_moves_by_the_clipped_error() -> None:
    """Ziegler et al. 2019: β x (1 + 0.1 clip(KL / target - 1, -0.2, 0.2))."""
    controller = Controller(AdaptiveKL(target=6.0), 0.1)
    assert controller.update(6.6) == pytest.approx(0.1 * 1.01)
    assert controller.update(60.0) == pytest.approx(0.1 * 1.01 * 1.02)
    assert controller.update(0.0) == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


def test_trainer_is_given_beta_also_after_a_kill() -> None:
    trainer = SimpleNamespace(beta=0.1)
    now = Now(step=1, steps=2, epoch=0.0, trainer=trainer)
    controller, again = (Controller(AdaptiveKL(target=2.0), 0.1) for _ in range(2))
    controller.log(now, {"kl": 0.2, "completions/mean_length": 20.0})  # 4 nats an answer
    assert trainer.beta == pytest.approx(0.102)
    again.restore(controller.state())
    trainer.beta = 0.1
    again.begin(now)
    assert trainer.beta == pytest.approx(0.102)
    again.log(now, {"loss": 1.0})
    assert trainer.beta == pytest.approx(0.102)
