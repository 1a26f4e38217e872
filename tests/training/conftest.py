import json
import random
from pathlib import Path

import pytest

WORDS = "the cat and a dog went to see some bread with tea near old house how do i bake find sure here is".split()


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some_text(seed: int, n: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def some_chat(seed: int) -> dict:
    request = some_text(seed, 5)
    turns = [{"role": "user", "content": request}, {"role": "assistant", "content": f"sure here is {request}"}]
    return {"messages": turns}


RECIPE = """
name: base
out: {out}
seed: 7
sources:
  - {{files: [text.jsonl], tokens: 640}}
  - {{files: [chats.jsonl], tokens: 1280}}
length: 32
model: {{vocab: 320, hidden: 32, layers: 2, heads: 4, intermediate: 48, context: 64}}
optimiser: {{batch: 8, learning_rate: 3.0e-3, warmup: 1}}
"""


@pytest.fixture(scope="session")
def chats() -> list[dict]:
    return [some_chat(i) for i in range(60)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, chats: list[dict]) -> Path:
    """Text, chats and recipes for models that train in a second."""
    here = tmp_path_factory.mktemp("training")
    write_jsonl(here / "text.jsonl", [{"text": some_text(i, 60)} for i in range(10)])
    write_jsonl(here / "chats.jsonl", chats)
    for name in ("base", "again"):
        (here / f"{name}.yaml").write_text(RECIPE.format(out=name), encoding="utf-8")
    (here / "helpful.yaml").write_text(
        "name: helpful\nparent: base\nout: helpful\ndata: [chats.jsonl]\nseed: 3\nmax_length: 48\n"
        "optimiser: {batch: 20, learning_rate: 3.0e-3, warmup: 1}\n",
        encoding="utf-8",
    )
    return here


@pytest.fixture(scope="session")
def base(folder: Path) -> Path:
    from alignstack.training import pretrain

    return pretrain.run(folder / "base.yaml")


@pytest.fixture(scope="session")
def helpful(folder: Path, base: Path) -> Path:
    from alignstack.training import sft

    return sft.run(folder / "helpful.yaml")


@pytest.fixture(scope="session")
def speaking(folder: Path, helpful: Path) -> Path:
    """A parent whose short answers come to their end."""
    from alignstack.training import sft

    turns = [some_chat(i)["messages"] for i in range(60)]
    chats = [{"messages": [asked, {**said, "content": "sure here is tea"}]} for asked, said in turns]
    write_jsonl(folder / "short.jsonl", chats)
    (folder / "speaking.yaml").write_text(
        "name: speaking\nparent: helpful\nout: speaking\ndata: [short.jsonl]\nseed: 4\nmax_length: 48\n"
        "optimiser: {batch: 20, learning_rate: 1.0e-2, warmup: 1, steps: 24, precision: fp32}\n",
        encoding="utf-8",
    )
    return sft.run(folder / "speaking.yaml")
