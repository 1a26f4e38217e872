"""The one module that touches transformers, TRL and PEFT: what we rely on in them."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from alignstack.training import trainer

SRC = Path(trainer.__file__).parents[1]


@pytest.fixture
def pair(base: Path) -> tuple[Any, Any]:
    return trainer.load(base)


def test_versions_are_those_that_the_package_asks_for() -> None:
    """TRL's arguments change from one minor version to the next: the pin is one minor wide."""
    import trl

    project = (SRC.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    low, high = re.findall(r'"trl>=(\d+\.\d+),<(\d+\.\d+)"', project)[0]
    assert trl.__version__.startswith(f"{low}.") and int(high.split(".")[1]) == int(low.split(".")[1]) + 1


def test_nothing_else_names_the_trainers() -> None:
    """Reading the trainers' names elsewhere is how their changes would reach every method."""
    named = re.compile(r"^\s*(?:from|import) (?:trl|peft)\b|\b(?:SFT|DPO|KTO|GRPO|RLOO|Reward)Trainer\(", re.M)
    found = [path for path in (SRC / "training").rglob("*.py") if named.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in found] == ["trainer.py"]


def test_look_ups_and_telemetry_are_off() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1" and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_settings_are_taken_by_every_trainer(tmp_path: Path) -> None:
    """All configurations accept `common`, and none of them reports anywhere or saves on its own."""
    import trl
    from trl.experimental.cpo import CPOConfig
    from trl.experimental.orpo import ORPOConfig

    run = trainer.Run(work=tmp_path, seed=5, optimiser=trainer.Optimiser(batch=8, precision="fp32"))
    kinds = [trl.SFTConfig, trl.RewardConfig, trl.DPOConfig, trl.KTOConfig, trl.GRPOConfig, trl.RLOOConfig]
    for kind in (*kinds, CPOConfig, ORPOConfig):
        made = kind(**trainer.common(run))
        assert made.report_to == [] and made.save_strategy == "no" and made.seed == made.data_seed == 5
        assert not made.gradient_checkpointing and not made.bf16 and not made.push_to_hub


def test_answers_are_the_same_in_any_company(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    asked = [[{"role": "user", "content": text}] for text in ("the cat", "a dog went to see some bread", "tea")]
    together = trainer.generate(model, tokenizer, asked, max_tokens=24)
    alone = [trainer.generate(model, tokenizer, [one], max_tokens=24)[0] for one in asked]
    assert together == alone


def test_answer_that_does_not_end_is_empty(pair: tuple[Any, Any]) -> None:
    assert trainer.generate(*pair, [[{"role": "user", "content": "the cat"}]], max_tokens=1) == [""]


def test_sampling_is_seeded_and_leaves_no_trace(pair: tuple[Any, Any]) -> None:
    import torch

    model, tokenizer = pair
    model.train()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    asked = [[{"role": "user", "content": "the cat"}]] * 4
    one, two, other = (
        trainer.generate(model, tokenizer, asked, max_tokens=60, temperature=1.0, seed=s) for s in (1, 1, 2)
    )
    assert one == two and one != other
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_blend_moves_the_weights_part_of_the_way(base: Path, pair: tuple[Any, Any]) -> None:
    import torch

    model, before = pair[0], trainer.load(base)[0]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    trainer.blend(model, base, 0.25)
    for weight, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(weight, old + 0.25)


def test_newest_whole_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    assert trainer.latest(tmp_path) is None
    for step, whole in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / trainer.COMPLETE).write_text("{}")
    assert trainer.latest(tmp_path) == tmp_path / "checkpoint-10"


def test_adapters_are_merged_at_the_end(base: Path, chats: list[dict[str, Any]], tmp_path: Path) -> None:
    """The result is a plain model of the parent's shape, other than the parent, that saves and loads as itself."""
    import torch

    model, tokenizer = trainer.load(base)
    how = trainer.Run(
        work=tmp_path / "work", seed=1, optimiser=trainer.Optimiser(batch=20, warmup=1, learning_rate=1e-2),
        max_length=48, lora=trainer.Lora(rank=2),
    )  # fmt: skip
    trained = trainer.sft(model, tokenizer, chats, how)
    trainer.save(trained.model, tokenizer, tmp_path / "out")
    again, before = trainer.load(tmp_path / "out")[0].state_dict(), trainer.load(base)[0].state_dict()
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], value) for name, value in trained.model.state_dict().items())
    assert any(not torch.equal(again[name], before[name]) for name in before)
