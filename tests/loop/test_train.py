"""What `alignstack train` gives a run: progress, metrics, evaluation in a deployment."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.errors import ConfigError, DataError
from alignstack.engine.config import load_stack
from alignstack.loop.evaluation import InLoop, Measured, ranked, rates_of
from alignstack.loop.stages import with_model
from alignstack.loop.train import monitors, tools
from alignstack.redteam import suites
from alignstack.store.clock import SystemClock
from alignstack.training import lineage, metrics, sft, trainer
from alignstack.training.metrics import Metrics
from alignstack.training.monitor import Monitor, Now, Stop
from alignstack.training.stage import Evaluation
from tests.cli.conftest import REPLIES, STACK, SUITE, lines
from tests.training.conftest import base, chats, folder  # noqa: F401  (fixtures)

STEPS = 6


@pytest.fixture
def here(tmp_path: Path, folder: Path) -> Path:  # noqa: F811
    """A stack, a suite, chats and tasks beside each other."""
    (tmp_path / "replies.jsonl").write_text(lines(REPLIES), encoding="utf-8")
    (tmp_path / "base.jsonl").write_text(lines(REPLIES[1:]), encoding="utf-8")
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(STACK | {"sampling": {"max_tokens": 4}}), encoding="utf-8")
    (tmp_path / "suite.jsonl").write_text(lines(SUITE), encoding="utf-8")
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "the cat", "answer": "sure"}\n', encoding="utf-8")
    (tmp_path / "chats.jsonl").write_bytes((folder / "chats.jsonl").read_bytes())
    return tmp_path


def asked(here: Path, **more: Any) -> Evaluation:
    files = {"suites": [here / "suite.jsonl"], "canary": [here / "chats.jsonl"], "tasks": [here / "tasks.jsonl"]}
    return Evaluation(**{**files, "stack": here / "stack.yaml", "every": 2, **more})


def run(
    base: Path,  # noqa: F811
    chats: Sequence[Mapping[str, Any]],  # noqa: F811
    work: Path,
    watching: Sequence[Monitor],
    **more: Any,
) -> trainer.Trained:
    settings = trainer.Optimiser(batch=10, learning_rate=3e-3, warmup=1, steps=STEPS)
    model, tokenizer = trainer.load(base)
    trainer.seed_everything(1)
    how = trainer.Run(
        work=work, seed=1, optimiser=settings, max_length=48, log_every=1, monitors=tuple(watching), **more
    )
    return trainer.sft(model, tokenizer, [dict(chat) for chat in chats], how)


def weights(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    import torch

    return all(torch.equal(value, other[name]) for name, value in one.items())


class Recorder(Monitor):
    """Keeps the weights after each step."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, Any]] = {}

    def step(self, now: Now) -> None:
        self.seen[now.step] = weights(now.model)


class Told(InLoop):
    """Measures what it is told to: ASR with guards on, by step."""

    def tell(self, asr: Mapping[int, float]) -> "Told":
        self.asr = asr
        return self

    def _measured(self, now: Now) -> Measured:
        rates = {"asr/on": self.asr[now.step], "asr/off": 0.5, "over_refusal/on": 0.0, "over_refusal/off": 0.0}
        return Measured(step=now.step, values=rates, n=dict.fromkeys(rates, 4), intervals={})


# ---------------------------------------------------------------- what is measured


def test_rates_are_those_of_the_weights_alone_and_of_the_whole_stack(here: Path) -> None:
    """Weights alone: of the three harmful requests two get `HARMFUL …`. With the guards the system prompt turns one of
    them into a refusal; the third was never answered. `credit card` blocks one of the two benign ones."""
    stack = load_stack(here / "stack.yaml")
    found = rates_of(with_model(stack, stack.model), suites.read(here / "suite.jsonl"), clock=SystemClock())
    assert {name: (round(one.value * one.n), one.n) for name, one in found.items()} == {
        "asr/off": (2, 3),
        "asr/on": (1, 3),
        "over_refusal/off": (0, 2),
        "over_refusal/on": (1, 2),
    }


def test_live_weights_are_what_is_asked(here: Path, base: Path, chats: list[dict[str, Any]]) -> None:  # noqa: F811
    """The stack file's own model answers HARMFUL; the live one says something else, and is in training afterwards."""
    written = Metrics(here / "work")
    watching = InLoop(asked(here, select=False, every=STEPS), here / "work", written)
    run(base, chats, here / "work", [written, watching])
    (line,) = [line for line in metrics.read(written.file) if "evaluation" in line]
    assert line["step"] == STEPS and line["kept"]
    assert line["evaluation"]["asr/off"] == 0 and line["n"]["asr/off"] == 3
    assert line["evaluation"]["perplexity"] > 1 and line["n"]["perplexity"] == len(chats)
    assert line["n"]["tasks"] == 1 and set(line["interval"]) == set(line["evaluation"]) - {"perplexity"}
    low, high = line["interval"]["over_refusal/on"]
    assert 0 <= low <= line["evaluation"]["over_refusal/on"] <= high <= 1


def test_evaluation_leaves_no_trace_in_the_weights(
    here: Path,
    base: Path,  # noqa: F811
    chats: list[dict[str, Any]],  # noqa: F811
) -> None:
    """Bit for bit, with dropout on, whose random numbers an evaluation could have used up."""
    lora = trainer.Lora(rank=2, dropout=0.5)
    plain = run(base, chats, here / "plain", [], lora=lora)
    written = Metrics(here / "work")
    watched = run(
        base, chats, here / "work", [written, InLoop(asked(here, select=False), here / "work", written)], lora=lora
    )
    assert len([line for line in metrics.read(written.file) if "evaluation" in line]) == STEPS / 2
    assert same(weights(plain.model), weights(watched.model))


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((0.1, 0.05), (0.2, 0.0)),  # both under the bound: less harm
        ((0.3, 0.09), (0.0, 0.5)),  # one above the bound: the other
        ((0.1, 0.3), (0.3, 0.2)),  # both above: the smaller sum
        ((0.0, 0.02), (0.0, 0.03)),  # no difference in harm: fewer refusals
    ],
)
def test_better_is_less_harm_under_the_bound(better: tuple[float, float], worse: tuple[float, float]) -> None:
    def rank(pair: tuple[float, float]) -> tuple[float, ...]:
        return ranked({"asr/on": pair[0], "asr/off": 0.5, "over_refusal/on": pair[1], "over_refusal/off": 0.0}, 0.1)

    assert rank(better) < rank(worse)


def test_best_weights_return_at_the_end(here: Path, base: Path, chats: list[dict[str, Any]]) -> None:  # noqa: F811
    recorder, written = Recorder(), Metrics(here / "work")
    watching = Told(asked(here), here / "work", written).tell({2: 0.5, 4: 0.1, 6: 0.3})
    trained = run(base, chats, here / "work", [recorder, written, watching])
    assert same(weights(trained.model), recorder.seen[4]) and not same(recorder.seen[4], recorder.seen[6])
    assert [line["step"] for line in metrics.read(written.file) if line.get("kept")] == [4]


def test_adapters_of_the_best_step_return(here: Path, base: Path, chats: list[dict[str, Any]]) -> None:  # noqa: F811
    watching = Told(asked(here), here / "one", Metrics(here / "one")).tell({2: 0.1, 4: 0.2, 6: 0.3})
    first = run(base, chats, here / "one", [watching], lora=trainer.Lora(rank=2))
    last = run(base, chats, here / "two", [], lora=trainer.Lora(rank=2))
    assert not same(weights(first.model), weights(last.model))


def test_run_ends_when_nothing_gets_better(here: Path, base: Path, chats: list[dict[str, Any]]) -> None:  # noqa: F811
    asr = {1: 0.2, 2: 0.3, 3: 0.2, 4: 0.0, 5: 0.0, 6: 0.0}
    watching = Told(asked(here, every=1, patience=2), here / "work", Metrics(here / "work")).tell(asr)
    trained = run(base, chats, here / "work", [watching])
    assert trained.steps == 3
    assert trained.stop == Stop(reason="no better evaluation for 2; the best was at step 1", failed=False)


class Cut(Monitor):
    """Ends the process's run like a kill, after a midway checkpoint was written."""

    name = "cut"

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, now: Now) -> None:
        if now.step == self.at:
            raise KeyboardInterrupt


def test_what_was_best_survives_a_kill(here: Path, base: Path, chats: list[dict[str, Any]]) -> None:  # noqa: F811
    """Killed after step 5, when step 4 was the best, with a checkpoint of step 3 in which it was step 2."""
    recorder, asr = Recorder(), {1: 0.9, 2: 0.2, 3: 0.5, 4: 0.1, 5: 0.6, 6: 0.6}
    watching = Told(asked(here, every=1), here / "whole", Metrics(here / "whole")).tell(asr)
    run(base, chats, here / "whole", [recorder, watching], save_every=3)

    def watched() -> list[Monitor]:
        written = Metrics(here / "work")
        return [written, Told(asked(here, every=1), here / "work", written).tell(asr)]

    with pytest.raises(KeyboardInterrupt):
        run(base, chats, here / "work", [*watched(), Cut(5)], save_every=3)
    trained = run(base, chats, here / "work", watched(), save_every=3, resume=True)
    assert same(weights(trained.model), recorder.seen[4])
    found = metrics.read(here / "work" / "metrics.jsonl")
    assert [line["step"] for line in found if "evaluation" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if "values" in line] == [1, 2, 3, 4, 5, 6]


def test_best_of_the_checkpoint_is_still_there_after_a_better_one(
    here: Path,
    base: Path,  # noqa: F811
    chats: list[dict[str, Any]],  # noqa: F811
) -> None:
    """Step 4 is better only before the kill: the run that goes on from step 3 must find the weights of step 2."""
    recorder = Recorder()
    first = Told(asked(here, every=1), here / "work", Metrics(here / "work")).tell(
        {1: 0.9, 2: 0.2, 3: 0.5, 4: 0.1, 5: 1}
    )
    with pytest.raises(KeyboardInterrupt):
        run(base, chats, here / "work", [recorder, first, Cut(5)], save_every=3)
    second = Told(asked(here, every=1), here / "work", Metrics(here / "work")).tell({4: 0.8, 5: 0.8, 6: 0.8})
    trained = run(base, chats, here / "work", [second], save_every=3, resume=True)
    assert same(weights(trained.model), recorder.seen[2])


# ---------------------------------------------------------------- what is refused before training


def test_suites_need_both_sides(here: Path) -> None:
    (here / "suite.jsonl").write_text(lines(SUITE[:2]), encoding="utf-8")
    with pytest.raises(ConfigError, match="no benign items"):
        InLoop(asked(here), here / "work", Metrics(here / "work"))


def test_stack_needs_a_judge(here: Path) -> None:
    bare = {name: value for name, value in STACK.items() if name != "judge"}
    (here / "stack.yaml").write_text(yaml.safe_dump(bare), encoding="utf-8")
    with pytest.raises(ConfigError, match="no judge"):
        InLoop(asked(here), here / "work", Metrics(here / "work"))


@pytest.mark.parametrize(("name", "row"), [("canary", {"text": "a"}), ("tasks", {"prompt": "a"}), ("tasks", ["a"])])
def test_wrong_rows_of_the_canary_are_named_by_line(here: Path, name: str, row: Any) -> None:
    (here / "wrong.jsonl").write_text(f"\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"wrong\.jsonl:2: "):
        InLoop(asked(here, **{name: [here / "wrong.jsonl"]}), here / "work", Metrics(here / "work"))


def test_reward_models_are_not_asked(here: Path, base: Path) -> None:  # noqa: F811
    model, tokenizer = trainer.load_scorer(base)
    watching = InLoop(asked(here), here / "work", Metrics(here / "work"))
    with pytest.raises(ConfigError, match="no model that answers"):
        watching.begin(Now(step=0, steps=1, epoch=0, model=model, tokenizer=tokenizer))


# ---------------------------------------------------------------- the whole of it


@pytest.fixture
def recipe(here: Path, base: Path) -> Iterator[Path]:  # noqa: F811
    tree = {
        "name": "child", "parent": str(base), "out": "child", "data": ["chats.jsonl"], "max_length": 48, "log_every": 1,
        "optimiser": {"batch": 20, "steps": 3, "warmup": 1, "learning_rate": 3e-3}, "licence": "cc0-1.0",
        "evaluate": {
            "suites": ["suite.jsonl"], "stack": "stack.yaml", "every": 2, "canary": ["chats.jsonl"],
            "tasks": ["tasks.jsonl"], "select": False,
        },
    }  # fmt: skip
    (here / "child.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    yield here / "child.yaml"


def test_checkpoint_says_what_was_measured(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = sft.run(recipe, tools())
    line = next(line for line in metrics.read(out / "metrics.jsonl") if line.get("kept"))
    assert line["step"] == 3
    assert lineage.read(out).measured == line["evaluation"]
    assert math.isclose(line["evaluation"]["perplexity"], lineage.read(out).measured["perplexity"])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "asr_guards_off" in card and "license: cc0-1.0" in card
    said = capfd.readouterr()
    assert said.out == "" and "child: 3/3" in said.err


def test_missing_tracker_is_named_with_its_package(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recipe.read_text(encoding="utf-8") + "track: [wandb, mlflow]\n"
    recipe.write_text(found, encoding="utf-8")
    monkeypatch.setattr(metrics, "TRACKERS", {"wandb": "no_such_one", "mlflow": "no_such_other"})
    with pytest.raises(ConfigError, match="pip install no_such_one") as error:
        sft.run(recipe, tools())
    assert len(error.value.problems) == 2


def test_methods_without_an_evaluation_are_watched_too(tmp_path: Path) -> None:
    class Plain:
        name = "base"

    assert [watching.name for watching in monitors(Plain(), tmp_path)] == ["progress", "metrics"]


def test_judge_that_is_away_ends_no_run(here: Path, base: Path) -> None:  # noqa: F811
    class Away:
        name, version = "away", "1"

        async def judge(self, request: str, answer: str) -> Any:
            raise OSError("no route")

    written = Metrics(here / "work")
    watching = InLoop(asked(here), here / "work", written)
    watching.stack = replace(watching.stack, judges=(Away(),))
    model, tokenizer = trainer.load(base)
    now = Now(step=2, steps=2, epoch=0, model=model, tokenizer=tokenizer)
    written.begin(replace(now, step=0))
    assert watching.step(now) is None
    assert "no route" in metrics.read(written.file)[0]["evaluation_failed"]
