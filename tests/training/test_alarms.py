import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignstack.training import alarms, metrics, trainer
from alignstack.training.monitor import Now, Stop


def at(step: int) -> Now:
    return Now(step=step, steps=100, epoch=0.0)


def falling(work: Path, **more: Any) -> alarms.FallingChosen:
    return alarms.FallingChosen(work, bound=5.0, window=2, **more)


def feed(monitor: alarms.FallingChosen, chosen: list[float], margins: list[float]) -> list[Stop | None]:
    pairs = zip(chosen, margins, strict=True)
    return [monitor.log(at(i + 1), {"rewards/chosen": c, "rewards/margins": m}) for i, (c, m) in enumerate(pairs)]


def test_falling_chosen_answers_are_told_once_with_what_helps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        stops = feed(falling(tmp_path), [0, -1, -6, -8, -12], [0, 1, 3, 5, 9])
    assert stops == [None] * 5
    (line,) = metrics.read(tmp_path / metrics.FILE)
    assert (line["step"], line["alarm"]) == (4, "falling_chosen")
    assert "6.5 nats an answer (bound 5)" in line["message"] and "loss: [dpo, sft]" in line["message"]
    assert [record.getMessage() for record in caplog.records] == [f"step 4: {line['message']}"]


def test_falling_chosen_answers_stop_the_run_when_asked_to(tmp_path: Path) -> None:
    stops = feed(falling(tmp_path, stop=True), [0, -1, -6, -8], [0, 1, 3, 5])
    assert stops[:3] == [None] * 3 and stops[3] is not None and stops[3].failed


@pytest.mark.parametrize(
    ("chosen", "margins"),
    [
        pytest.param([0, -1, -4, -5], [0, 1, 3, 5], id="within the bound"),
        pytest.param([0, -1, -6, -8], [5, 4, 3, 2], id="the margin falls too: something else is wrong"),
        pytest.param([0, 1, 6, 8], [0, 1, 3, 5], id="they rise"),
    ],
)
def test_no_alarm(tmp_path: Path, chosen: list[float], margins: list[float]) -> None:
    monitor = falling(tmp_path, stop=True)
    assert feed(monitor, chosen, margins) == [None] * 4
    assert not (tmp_path / metrics.FILE).exists()


def test_nats_are_what_the_metric_says_times_its_unit(tmp_path: Path) -> None:
    monitor = falling(tmp_path, stop=True, nats=10.0)
    assert feed(monitor, [0, -0.1, -0.6, -0.8], [0, 1, 3, 5])[3] is not None


def test_a_resumed_alarm_goes_on_where_it_was(tmp_path: Path) -> None:
    first = falling(tmp_path, stop=True)
    feed(first, [0, -1, -6], [0, 1, 3])
    second = falling(tmp_path, stop=True)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.log(at(4), {"rewards/chosen": -8, "rewards/margins": 5}) is not None
    third = falling(tmp_path, stop=True)
    third.restore(second.state())
    assert third.log(at(5), {"rewards/chosen": -12, "rewards/margins": 9}) is None  # told before


def test_a_step_that_is_done_again_warns_in_the_metrics_once(tmp_path: Path) -> None:
    for _ in range(2):
        feed(falling(tmp_path), [0, -1, -6, -8], [0, 1, 3, 5])
    assert len(metrics.read(tmp_path / metrics.FILE)) == 1


@pytest.mark.parametrize("values", [{"loss": float("nan")}, {"loss": 1.0, "grad_norm": float("inf")}])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run(values: dict[str, float]) -> None:
    stop = alarms.NotANumber().log(at(7), values)
    assert stop is not None and stop.failed and "step 7" in stop.reason and "learning rate" in stop.reason


def test_numbers_do_not() -> None:
    assert alarms.NotANumber().log(at(7), {"loss": 1e9, "grad_norm": 0.0}) is None


def test_first_step_of_another_loss_than_expected_stops_the_run() -> None:
    stop = alarms.StaleReference(0.6931).log(at(1), {"loss": 0.91, "rewards/chosen": -0.18, "rewards/rejected": 0.2})
    assert stop is not None and stop.failed
    assert "loss = 0.91 in place of 0.6931, rewards/chosen = -0.18 in place of 0" in stop.reason


def test_where_the_loss_is_not_known_the_rewards_are_looked_at() -> None:
    values = {"loss": 3.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    assert alarms.StaleReference(None).log(at(1), values) is None
    assert alarms.StaleReference(None).log(at(1), values | {"rewards/rejected": 0.1}) is not None


def test_a_resumed_run_is_past_the_first_step() -> None:
    assert alarms.StaleReference(0.6931).log(at(2), {"loss": 0.2, "rewards/chosen": 4.0}) is None


# ---------------------------------------------------------------- in a run

SAID = [{"role": "assistant", "content": "sure here is"}], [{"role": "assistant", "content": "tea with bread"}]
PAIRS = [{"prompt": [{"role": "user", "content": "the cat"}], "chosen": SAID[0], "rejected": SAID[1]}] * 4


def how(work: Path, *monitors: Any, **more: Any) -> trainer.Run:
    optimiser = trainer.Optimiser(**{"batch": 4, "steps": 4, "learning_rate": 1e-3, "warmup": 0} | more)
    return trainer.Run(work=work, seed=0, optimiser=optimiser, max_length=64, log_every=1, monitors=monitors)


def test_trl_takes_a_stale_reference_from_disk_and_the_alarm_stops_it(tmp_path: Path, base: Path) -> None:
    """Without a reference of its own TRL reads it from where the model was loaded: weights that have changed since are
    not what it finds there."""
    import torch

    model, tokenizer = trainer.load(base)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.02)
    trained = trainer.dpo(model, None, tokenizer, PAIRS, how(tmp_path, alarms.StaleReference(0.6931)))
    assert trained.stop is not None and trained.stop.failed and trained.steps == 1


@pytest.mark.parametrize("more", [{"precision": "bf16"}, {"precision": "fp32"}, {"batch": 2, "accumulate": 2}])
def test_a_reference_from_the_parents_folder_is_not_stale(tmp_path: Path, base: Path, more: dict[str, Any]) -> None:
    model, tokenizer = trainer.load(base)
    run = how(tmp_path, alarms.StaleReference(0.6931), **more)
    trained = trainer.dpo(model, trainer.load(base)[0], tokenizer, PAIRS, run)
    assert trained.stop is None and trained.steps == 4
    assert trained.history[0]["rewards/chosen"] == trained.history[0]["rewards/rejected"] == 0.0


def test_a_run_whose_loss_explodes_is_stopped(tmp_path: Path, base: Path) -> None:
    import torch

    model, tokenizer = trainer.load(base)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    run = replace(how(tmp_path, alarms.NotANumber(), precision="fp32"), log_every=1)
    rows = [{"messages": [*row["prompt"], *row["chosen"]]} for row in PAIRS]
    trained = trainer.sft(model, tokenizer, rows, run)
    assert trained.stop is not None and trained.stop.failed and trained.steps == 1
