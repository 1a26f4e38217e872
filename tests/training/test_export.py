import shutil
from pathlib import Path

import numpy as np
import pytest

from alignstack.core.errors import DataError
from alignstack.core.messages import user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.models.embedded import Embedded
from alignstack.training import export, trainer


@pytest.fixture(scope="module")
def exported(helpful: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.run(helpful, tmp_path_factory.mktemp("exported"))


def as_stored(model: object) -> object:
    """The model with its matrices rounded to int8 and back, as the file holds them."""
    import torch

    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() == 2):  # type: ignore[attr-defined]
            scale = matrix.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
            matrix.copy_((matrix / scale).round() * scale)
    return model


def test_logits_equal_those_of_transformers_with_the_stored_weights(helpful: Path, exported: Path) -> None:
    assert export.difference(exported, as_stored(trainer.load(helpful)[0])) < 1e-4


def test_cache_and_whole_prompt_give_the_same_logits(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    ids = np.arange(5, 25)[None, :]
    whole = session.run(["logits"], {"ids": ids, **export.empty_past(session)})[0]
    past = export.empty_past(session)
    for part in (ids[:, :7], ids[:, 7:8], ids[:, 8:]):
        logits, *present = session.run(None, {"ids": part, **past})
        past = dict(zip(past, present, strict=True))
    assert np.abs(whole - logits).max() < 1e-4


def test_weights_take_about_one_byte_each(helpful: Path, exported: Path) -> None:
    n = sum(p.numel() for p in trainer.load(helpful)[0].parameters())
    assert exported.stat().st_size < 2 * n + 100_000


async def test_the_runtime_runs_the_exported_file(exported: Path) -> None:
    model = Embedded(Embedded.Config(checkpoint=exported.name), base=exported.parent)
    items = [item async for item in model.stream(user("how do i bake bread"), Sampling(max_tokens=8))]
    assert isinstance(items[-1], Finish) and all(isinstance(item, Delta) for item in items[:-1])


def test_a_folder_with_another_tokenizer_is_refused(helpful: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="other checkpoints"):
        export.run(helpful, tmp_path)


def test_two_stages_share_one_folder(base: Path, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported.parent, tmp_path / "out")
    export.run(base, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["base.onnx", "helpful.onnx", "tokenizer.json"]
