"""From the ONNX file of the embedded runtime back to a checkpoint."""

import os
from pathlib import Path

import numpy as np
import pytest

from alignstack.core.errors import DataError, NotFound
from alignstack.core.messages import user
from alignstack.models import embedded
from alignstack.training import export, lineage, trainer, unpack


@pytest.fixture(scope="module")
def exported(helpful: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.run(helpful, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def unpacked(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack.unpack(exported, tmp_path_factory.mktemp("unpacked") / "out")


def test_logits_are_those_of_the_file(exported: Path, unpacked: Path) -> None:
    assert export.difference(exported, trainer.load(unpacked)[0]) < 1e-4


def test_weights_are_the_checkpoints_up_to_their_int8(helpful: Path, unpacked: Path) -> None:
    before, after = (trainer.load(path)[0].state_dict() for path in (helpful, unpacked))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        step = weight.abs().max() / 127
        assert float((after[name] - weight).abs().max()) <= float(step) * 0.51


def test_there_and_back_again_is_the_same_file(exported: Path, unpacked: Path, tmp_path: Path) -> None:
    """int8 weights survive float32: scale and codes come out as they went in."""
    again = export.run(unpacked, tmp_path)
    one, two = embedded.load(exported), embedded.load(again)
    ids = list(range(5, 25))
    assert np.abs(one.step(ids, one._empty())[0] - two.step(ids, two._empty())[0]).max() < 1e-5


def test_tokenizer_and_template_give_the_runtimes_ids(exported: Path, unpacked: Path) -> None:
    model, tokenizer = embedded.load(exported), trainer.load(unpacked)[1]
    messages = [{"role": "user", "content": "how do i bake bread"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tuple(tokenizer(text)["input_ids"]) == model.prompt(user("how do i bake bread"), 8).turns


def test_lineage_goes_on_from_what_the_export_says(helpful: Path, unpacked: Path) -> None:
    stage = lineage.read(unpacked)
    assert (stage.stage, stage.method, stage.parent) == ("helpful", "unpacked", None)
    assert stage.ancestors == tuple(one.weights for one in lineage.chain(helpful))


def test_shipped_checkpoint_is_unpacked_once(home: Path) -> None:
    first = unpack.shipped("helpful")
    changed = first / "model.safetensors"
    os.utime(changed, (1, 1))
    assert first.is_relative_to(home) and unpack.shipped("helpful") == first
    assert changed.stat().st_mtime == 1


def test_unknown_name_is_an_error_with_the_names_there_are() -> None:
    with pytest.raises(NotFound, match="aligned"):
        unpack.shipped("alinged")


def test_other_onnx_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="is no export of"):
        unpack.unpack(tmp_path / "x.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
