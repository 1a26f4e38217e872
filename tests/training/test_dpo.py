import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.errors import ConfigError, DataError
from alignstack.training import dpo, kto, lineage, metrics, online, scores, sft
from alignstack.training.monitor import Monitor, Now, Stop, TrainingStopped
from alignstack.training.recipe import load
from alignstack.training.stage import Tools

REQUESTS = [
    f"{a} {b}" for a in ("bake", "find", "see", "go near") for b in ("the cat", "a dog", "some bread", "old tea")
]


def pairs() -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": request}],
            "chosen": [{"role": "assistant", "content": f"sure here is {request}"}],
            "rejected": [{"role": "assistant", "content": "tea with bread"}],
        }
        for request in REQUESTS
    ]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with pairs, labelled answers and prompts."""
    sides = ("harmful", "benign")
    prompts = [{"id": f"p{i}", "text": text, "label": sides[i % 2]} for i, text in enumerate(REQUESTS)]
    for name, rows in (("pairs", pairs()), ("prompts", prompts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def recipe(here: Path, parent: Path, **more: Any) -> Path:
    """A small recipe; `more` replaces what it says."""
    optimiser = {"batch": 8, "steps": 6, "learning_rate": 3e-3, "warmup": 0}
    tree = {
        "name": "dpo",
        "parent": str(parent),
        "out": "out",
        "data": ["pairs.jsonl"],
        "max_length": 64,
        "log_every": 1,
    }
    path = here / "dpo.yaml"
    path.write_text(yaml.safe_dump(tree | {"optimiser": optimiser} | more), encoding="utf-8")
    return path


def test_pairs_are_learnt_and_their_margins_kept(here: Path, helpful: Path) -> None:
    out = dpo.run(recipe(here, helpful, margins=True))
    margins = scores.margins(out, helpful, pairs())
    assert margins.min() > 0
    lines = [json.loads(line) for line in (out / "margins.jsonl").read_text().splitlines()]
    assert [line["margin"] for line in lines] == sorted(line["margin"] for line in lines)
    assert lines[0]["margin"] == pytest.approx(margins.min(), abs=1e-3)
    assert lines[0]["origin"].startswith("pairs.jsonl:")


def test_checkpoint_says_what_made_it(here: Path, helpful: Path) -> None:
    made = lineage.read(dpo.run(recipe(here, helpful)))
    assert (made.method, made.steps) == ("dpo", 6)
    assert made.parent == lineage.sha256(helpful / lineage.WEIGHTS)
    assert made.tokens > 0


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        (["dpo", "sft"], {"loss_weights": [1.0, 0.5]}),
        ("ipo", {}),
        ("cdpo", {"label_smoothing": 0.1}),
        ("orpo", {}),
        ("simpo", {"gamma": 0.5}),
        ("dpo", {"lora": {"rank": 4, "alpha": 8}}),
    ],
)
def test_other_losses_learn_too(loss: Any, more: dict[str, Any], here: Path, helpful: Path) -> None:
    assert scores.margins(dpo.run(recipe(here, helpful, loss=loss, **more)), helpful, pairs()).mean() > 0


def test_uncertain_labels_pull_less(here: Path, helpful: Path) -> None:
    def margin(confidence: float) -> float:
        rows = [row | {"confidence": confidence} for row in pairs()]
        (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return float(scores.margins(dpo.run(recipe(here, helpful)), helpful, pairs()).mean())

    sure, unsure, wrong = margin(1.0), margin(0.5), margin(0.0)
    assert sure > 0 > wrong and wrong < unsure < sure


def test_loss_names_are_checked_before_anything_is_read(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"dpo\.yaml: loss: no loss 'dop'; did you mean 'dpo'"):
        dpo.run(recipe(here, here / "nowhere", loss="dop"))


def test_unlearnt_chosen_answers_stop_the_run_when_the_recipe_says_so(here: Path, helpful: Path) -> None:
    """APO-down is the loss that lowers both answers by design."""
    path = recipe(here, helpful, loss="apo_down", beta=0.5, on_falling_chosen="stop", falling_bound=0.05)
    with pytest.raises(TrainingStopped, match="chosen answers became less likely"):
        dpo.run(path)
    told = [line["alarm"] for line in metrics.read(here / "out.work" / metrics.FILE) if "alarm" in line]
    assert told == ["falling_chosen"]
    assert not (here / "out").exists()


# ---------------------------------------------------------------- online

SHORT = [{"use": "length", "per_token": -1.0}]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory, helpful: Path) -> Path:
    """A parent that answers briefly or at length, as it comes."""
    here = tmp_path_factory.mktemp("talker")
    said = ("tea", "bread", "the old house and a dog", "go to the cat with some bread and tea")
    rows = [{"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": text}]}
            for request in REQUESTS for text in said]  # fmt: skip
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    optimiser = {"batch": 32, "epochs": 30, "learning_rate": 1e-2, "warmup": 0}
    tree = {"name": "talker", "parent": str(helpful), "out": "out", "data": ["rows.jsonl"], "max_length": 64}
    (here / "sft.yaml").write_text(yaml.safe_dump(tree | {"optimiser": optimiser}), encoding="utf-8")
    return sft.run(here / "sft.yaml")


def rounds(here: Path, parent: Path, **more: Any) -> Path:
    block = {"rounds": 2, "answers": 3, "max_tokens": 32, "feedback": SHORT} | more
    return recipe(here, parent, data=["prompts.jsonl"], online=block)


def test_rounds_follow_the_feedback_and_keep_their_pairs(here: Path, talker: Path) -> None:
    out = dpo.run(rounds(here, talker))
    done = [online.Round(**json.loads(line)) for line in (out / online.ROUNDS).read_text().splitlines()]
    assert [each.round for each in done] == [1, 2] and done[1].score > done[0].score
    first, second = ((out / f"round-{n}.jsonl").read_text().splitlines() for n in (1, 2))
    assert len(first) == done[0].pairs + 1 and len(second) == done[1].pairs + 1
    pair = json.loads(first[1])
    assert pair["scores"][0] > pair["scores"][1] and pair["side"] in ("harmful", "benign")
    assert lineage.read(out).steps == 12


class Killed(Monitor):
    """Ends the process's run in the middle of a round, as a kill does."""

    def __init__(self, part: str, step: int) -> None:
        self.part, self.at = part, step

    def step(self, now: Now) -> Stop | None:
        if now.trainer.args.output_dir.endswith(self.part) and now.step == self.at:
            raise KeyboardInterrupt
        return None


def test_killed_rounds_go_on_where_they_were_and_end_alike(here: Path, talker: Path) -> None:
    path = rounds(here, talker)
    path.write_text(path.read_text() + "save_every: 2\n", encoding="utf-8")
    whole = lineage.read(dpo.run(path)).weights
    with pytest.raises(KeyboardInterrupt):
        dpo.run(path, Tools(monitors=lambda recipe, work: (Killed("round-2", 3),)))
    sampled = (here / "out.work" / "round-2.jsonl").read_bytes()
    with pytest.raises(DataError, match="--resume"):
        dpo.run(path)
    out = dpo.run(path, Tools(resume=True))
    assert lineage.read(out).weights == whole
    assert (out / "round-2.jsonl").read_bytes() == sampled


def test_feedback_that_tells_nothing_apart_is_an_error(here: Path, talker: Path) -> None:
    with pytest.raises(DataError, match="tells no two answers apart"):
        dpo.run(rounds(here, talker, feedback=[{"use": "length", "per_token": 0.0}]))


def test_prompts_are_drawn_in_turn() -> None:
    rows = [{"n": n} for n in range(5)]
    assert [row["n"] for row in online.draw(rows, 3, 1)] == [0, 1, 2]
    assert [row["n"] for row in online.draw(rows, 3, 2)] == [3, 4, 0]
    assert online.draw(rows, None, 2) == rows


def test_best_goes_against_worst_of_the_answers_that_ended() -> None:
    row = {"prompt": [], "label": "harmful", "hazard": "vcr", "origin": "a:1"}
    pair = online.best_against_worst(row, ["b", "", "c", "d"], [0.5, float("-inf"), 1.0, 0.0], 0.0)
    assert pair is not None
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("c", "d")
    assert (pair["side"], pair["hazard"], pair["scores"]) == ("harmful", "vcr", [1.0, 0.0])
    assert online.best_against_worst(row, ["b", ""], [0.5, float("-inf")], 0.0) is None
    assert online.best_against_worst(row, ["b", "c"], [0.5, 0.6], 0.2) is None


# ---------------------------------------------------------------- kto


def settings(here: Path, helpful: Path, **more: Any) -> kto.KTO:
    return load(recipe(here, helpful, **more), kto.KTO)


def labelled(good: int, bad: int) -> list[dict[str, Any]]:
    return [{"label": True}] * good + [{"label": False}] * bad


def test_kto_learns_from_pairs_taken_apart(here: Path, helpful: Path) -> None:
    out = kto.run(recipe(here, helpful))
    assert scores.margins(out, helpful, pairs()).mean() > 0
    rows = [json.loads(line) for line in gzip.decompress((out / "rows.jsonl.gz").read_bytes()).splitlines()]
    assert [row["label"] for row in rows].count(True) == [row["label"] for row in rows].count(False) == len(REQUESTS)


def test_fewer_answers_of_one_kind_weigh_more(here: Path, helpful: Path) -> None:
    assert kto.weights(settings(here, helpful), labelled(10, 30)) == (3.0, 1.0)
    assert kto.weights(settings(here, helpful, undesirable_weight=0.5), labelled(10, 30)) == (1.5, 0.5)
    assert kto.weights(settings(here, helpful), labelled(20, 20)) == (1.0, 1.0)


@pytest.mark.parametrize(("good", "warns"), [(0.9, True), (1.0, False), (1.3, False), (1.4, True)])
def test_weights_outside_the_papers_rule_are_warned_of(
    good: float, warns: bool, here: Path, helpful: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(here, helpful, desirable_weight=good, undesirable_weight=1.0)
    assert kto.weights(config, labelled(10, 10)) == (good, 1.0)
    assert ("1 to 4/3" in caplog.text) == warns


def test_one_kind_of_answers_is_not_enough(here: Path, helpful: Path) -> None:
    with pytest.raises(DataError, match="all 3 answers are good"):
        kto.weights(settings(here, helpful), labelled(3, 0))


def test_a_batch_of_one_is_refused_and_a_last_one_left_out(here: Path, helpful: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        settings(here, helpful, optimiser={"batch": 1})
    assert len(kto.whole_batches(labelled(5, 4), 4)) == 8
    assert len(kto.whole_batches(labelled(5, 5), 4)) == 10
