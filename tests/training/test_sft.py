import json
from pathlib import Path
from typing import Any

import pytest

from alignstack.core.errors import DataError
from alignstack.training import lineage, sft, trainer


def loss_of_answers(checkpoint: Path, chats: list[dict[str, Any]]) -> float:
    import torch

    model, tokenizer = trainer.load(checkpoint)
    losses = []
    for chat in chats[:10]:
        made = tokenizer.apply_chat_template(
            chat["messages"], return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
        )
        mask = torch.as_tensor(made["assistant_masks"]).bool().reshape(made["input_ids"].shape)
        labels = made["input_ids"].masked_fill(~mask, -100)
        with torch.no_grad():
            losses.append(float(model(input_ids=made["input_ids"], labels=labels).loss))
    return sum(losses) / len(losses)


def test_answers_become_likelier(base: Path, helpful: Path, chats: list[dict[str, Any]]) -> None:
    assert loss_of_answers(helpful, chats) < loss_of_answers(base, chats) - 0.02


def test_loss_is_on_the_assistants_tokens_only(base: Path, tmp_path: Path) -> None:
    """Rows that differ in the request's last words alone, after which nothing is asked of the model but one answer:
    with the loss on answers only, an empty answer teaches the end mark and nothing about the request."""
    import torch

    rows = [{"role": "user", "content": "the cat and a dog"}, {"role": "assistant", "content": ""}]
    model, tokenizer = trainer.load(base)
    ids = tokenizer("the cat and a dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = float(model(input_ids=ids, labels=ids).loss)
    settings = trainer.Optimiser(batch=8, learning_rate=3e-3, warmup=1)
    run = trainer.Run(work=tmp_path, seed=0, optimiser=settings, max_length=48)
    trainer.sft(model, tokenizer, [{"messages": rows}] * 64, run)
    with torch.no_grad():
        after = float(model(input_ids=ids, labels=ids).loss)
    assert after > before - 0.2  # trained on as an answer, the same text's loss falls by 0.7


def test_lineage_names_parent_data_and_recipe(folder: Path, base: Path, helpful: Path) -> None:
    stage = lineage.read(helpful)
    assert (stage.stage, stage.method, stage.seed) == ("helpful", "sft", 3)
    assert stage.parent == lineage.sha256(base / lineage.WEIGHTS)
    assert stage.data == {"chats.jsonl": lineage.sha256(folder / "chats.jsonl")}
    assert stage.recipe == lineage.sha256(folder / "helpful.yaml")
    assert stage.tokens > 500


def test_row_without_an_answer_is_named_by_line(tmp_path: Path, base: Path, chats: list[dict[str, Any]]) -> None:
    unanswered = {"messages": [{"role": "user", "content": "a"}]}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(chats[0])}\n{json.dumps(unanswered)}\n")
    recipe = tmp_path / "sft.yaml"
    recipe.write_text(f"name: x\nparent: {base}\nout: x\ndata: [rows.jsonl]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        sft.run(recipe)


def test_parent_must_be_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "sft.yaml"
    recipe.write_text(f"name: x\nparent: nowhere\nout: x\ndata: [{folder / 'chats.jsonl'}]\n", encoding="utf-8")
    with pytest.raises(DataError, match="nowhere"):
        sft.run(recipe)


def test_blend_keeps_that_share_of_the_change(folder: Path, base: Path, helpful: Path) -> None:
    import torch

    recipe = (folder / "helpful.yaml").read_text().replace("out: helpful", "out: half") + "blend: 0.5\n"
    (folder / "half.yaml").write_text(recipe)
    parent, tuned, half = (trainer.load(c)[0].state_dict() for c in (base, helpful, sft.run(folder / "half.yaml")))
    for name, weights in half.items():
        torch.testing.assert_close(weights, (parent[name] + tuned[name]) / 2)
