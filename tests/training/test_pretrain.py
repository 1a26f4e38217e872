from pathlib import Path

import pytest

from alignstack.core.errors import ConfigError, DataError
from alignstack.training import chat, lineage, pretrain, trainer
from alignstack.training.recipe import load


def test_checkpoint_loads_and_predicts_its_corpus_better_than_chance(base: Path) -> None:
    import torch

    model, tokenizer = trainer.load(base)
    ids = tokenizer("the cat and a dog went to see some bread", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 5.6  # ln 320 = 5.77 is what a model that knows nothing pays


def test_same_recipe_and_seed_give_the_same_weights(folder: Path, base: Path) -> None:
    again = pretrain.run(folder / "again.yaml")
    assert lineage.read(again).weights == lineage.read(base).weights


def test_packing_fills_every_sequence_and_starts_it_with_a_document(folder: Path, base: Path) -> None:
    recipe = load(folder / "base.yaml", pretrain.Pretrain)
    tokenizer = trainer.load(base)[1]
    blocks = pretrain.pack(recipe, tokenizer)
    assert blocks.shape == (20 + 40, 32)
    assert tokenizer.pad_token_id not in blocks
    chats = sum(block[0] == tokenizer.convert_tokens_to_ids(chat.ROLES["user"]) for block in blocks)
    assert chats == 40


def test_short_sources_are_read_again_until_the_tokens_are_there(folder: Path, base: Path) -> None:
    source = pretrain.Source(files=[folder / "chats.jsonl"], tokens=32 * 500)
    recipe = load(folder / "base.yaml", pretrain.Pretrain).model_copy(update={"sources": [source]})
    assert len(pretrain.pack(recipe, trainer.load(base)[1])) == 500


def test_template_marks_the_assistants_tokens_and_no_others(base: Path) -> None:
    tokenizer = trainer.load(base)[1]
    turns = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "the cat"}]
    made = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(made["input_ids"], made["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "the cat<|end|>"


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "base.yaml"
    recipe.write_text("out: x\nsourcez: []\nmodel: {hiden: 3}\nsources: []\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(recipe, pretrain.Pretrain)
    text = str(error.value)
    assert "sourcez" in text and "hiden" in text and len(error.value.problems) == 3


def test_missing_data_file_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "base.yaml"
    recipe.write_text("out: x\nsources: [{files: [gone.jsonl], tokens: 100}]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        pretrain.run(recipe)


def test_recipe_paths_start_at_the_recipe_and_variables_are_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_DATA", str(tmp_path / "far"))
    recipe = tmp_path / "base.yaml"
    recipe.write_text(
        "out: runs/x\nsources: [{files: ['${SOME_DATA}/a.jsonl', '${NOT_THERE:-near}/b.jsonl'], tokens: 100}]\n",
        encoding="utf-8",
    )
    found = load(recipe, pretrain.Pretrain)
    assert found.out == tmp_path / "runs/x"
    assert found.sources[0].files == [tmp_path / "far/a.jsonl", tmp_path / "near/b.jsonl"]
