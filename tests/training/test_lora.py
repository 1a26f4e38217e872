"""Low-rank adapters: what is merged is what was trained, and the reference is the model without them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignstack.training import alarms, trainer

ASKED = [{"role": "user", "content": "the cat and a dog"}]
GOOD = [{"role": "assistant", "content": "sure here is the cat"}]
BAD = [{"role": "assistant", "content": "tea with bread"}]
PAIRS = [{"prompt": ASKED, "chosen": GOOD, "rejected": BAD}] * 8
CHATS = [{"messages": [*ASKED, *GOOD]}] * 8


def logits(model: Any, tokenizer: Any) -> Any:
    ids = tokenizer.apply_chat_template([*ASKED, *GOOD], return_dict=True, return_tensors="pt")["input_ids"]
    with trainer.quiet(model):
        return model(input_ids=ids).logits


class Watch(alarms.Monitor):
    """What the model with its adapters on says after the last step, and without them; and what can be trained."""

    name = "watch"

    def end(self, now: Any) -> None:
        assert hasattr(now.model, "disable_adapter")
        self.on = logits(now.model, now.tokenizer)
        with now.model.disable_adapter():
            self.off = logits(now.model, now.tokenizer)
        self.trained = {name for name, weights in now.model.named_parameters() if weights.requires_grad}


def how(work: Path, monitor: Watch, **more: Any) -> trainer.Run:
    optimiser = trainer.Optimiser(batch=8, steps=5, learning_rate=1e-2, warmup=0, precision="fp32")
    return trainer.Run(
        work=work, seed=0, optimiser=optimiser, max_length=64, log_every=1, lora=trainer.Lora(rank=4, alpha=8),
        monitors=(monitor, alarms.StaleReference(0.6931)) if more.get("pairs") else (monitor,),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_merged_model_says_what_the_adapters_said(method: str, tmp_path: Path, base: Path) -> None:
    import torch

    watch = Watch()
    model, tokenizer = trainer.load(base)
    before = logits(trainer.load(base)[0], tokenizer)
    run = how(tmp_path, watch, pairs=method == "dpo")
    if method == "sft":
        trained = trainer.sft(model, tokenizer, CHATS, run)
    else:
        trained = trainer.dpo(model, None, tokenizer, PAIRS, run)
    assert trained.stop is None and not hasattr(trained.model, "disable_adapter")
    torch.testing.assert_close(logits(trained.model, tokenizer), watch.on, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(watch.off, before)
    assert (watch.on - before).abs().max() > 0.1
    assert watch.trained and all("lora_" in name for name in watch.trained)


def test_merged_weights_survive_the_disk(tmp_path: Path, base: Path) -> None:
    import torch

    model, tokenizer = trainer.load(base)
    trained = trainer.dpo(model, None, tokenizer, PAIRS, how(tmp_path / "work", watch := Watch(), pairs=True))
    trainer.save(trained.model, tokenizer, tmp_path / "saved")
    torch.testing.assert_close(logits(*trainer.load(tmp_path / "saved")), watch.on, rtol=1e-4, atol=1e-4)


def test_reference_of_adapters_is_the_base(tmp_path: Path, base: Path) -> None:
    """The first step's loss is ln 2, and later rewards are what the adapters changed, measured here against a second
    model from the same folder."""
    model, tokenizer = trainer.load(base)
    with_base = trainer.dpo(model, None, tokenizer, PAIRS, how(tmp_path / "a", Watch(), pairs=True))
    model, _ = trainer.load(base)
    run = how(tmp_path / "b", Watch(), pairs=True)
    explicit = trainer.dpo(model, trainer.load(base)[0], tokenizer, PAIRS, run)
    for ours, theirs in zip(with_base.history[:-1], explicit.history[:-1], strict=True):
        assert ours["rewards/chosen"] == pytest.approx(theirs["rewards/chosen"], abs=1e-5)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert with_base.history[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert abs(with_base.history[-2]["rewards/chosen"]) > 0.01


def test_dropout_in_adapters_leaves_the_first_step_at_ln_2(tmp_path: Path, base: Path) -> None:
    model, tokenizer = trainer.load(base)
    run = replace(how(tmp_path, Watch(), pairs=True), lora=trainer.Lora(rank=4, dropout=0.5))
    trained = trainer.dpo(model, None, tokenizer, PAIRS, run)
    assert trained.stop is None and trained.steps == 5
