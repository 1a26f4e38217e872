import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from pydantic import Field

from alignstack import policy
from alignstack.core.errors import ConfigError, DataError
from alignstack.policy.render import refusal, system_prompt
from alignstack.training import dataset
from alignstack.training.data_card import data_card
from alignstack.training.dataset import Source, read_manifest
from alignstack.training.recipe import RecipePath, load
from alignstack.training.stage import Recipe, Stage, Tools, begin

from .conftest import write_jsonl

POLICY = policy.load(None)
FRUIT = "apples pears plums figs dates limes lemons melons grapes mangoes quinces cherries".split()


class Config(Recipe):
    data: list[Source]
    held_out: list[RecipePath] = Field(default=[])


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"id": text, "text": text, "label": "harmful", "hazard": "ncr"} | more


def chat(request: str, answer: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return {"messages": said} | more


def prompts(n: int, label: str = "harmful") -> list[dict[str, Any]]:
    return [ask(f"How do I pickle {fruit} with {label} vinegar?", label=label) for fruit in FRUIT[:n]]


Rows = Callable[..., list[dict[str, Any]]]


class Built:
    """Stages of recipes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stage: Stage | None = None

    def rows(self, kind: dataset.Kind, data: list[Any], *, resume: bool = False, **more: Any) -> list[dict[str, Any]]:
        tree = {"name": "x", "parent": "embedded:helpful", "out": "x", "data": data} | more
        file = self.folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        config = load(file, Config)
        self.stage = begin(config, file, "sft", Tools(resume=resume))
        return dataset.for_stage(self.stage, config.data, kind, config.held_out)

    @property
    def dropped(self) -> dict[str, int]:
        assert self.stage is not None
        return sum((Counter(entry["dropped"]) for entry in self.stage.notes["data"]["files"]), Counter())


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


# ---------------------------------------------------------------- answers


def test_refusals_are_the_policys_words_for_the_hazard(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", [ask("Pickle plums badly", hazard="vcr"), ask("Forge a fig", hazard=None)])
    rows = built.rows("sft", [{"files": "p.jsonl", "answer": "refuse"}])
    said = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert said == {"Pickle plums badly": refusal(POLICY, "vcr"), "Forge a fig": POLICY.block_text}
    assert {row["origin"] for row in rows} == {"p.jsonl:1", "p.jsonl:2"}


def test_pairs_of_refusal_and_the_parents_own_answer(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(3))
    rows = built.rows("preference", [{"files": "p.jsonl", "chosen": "refuse", "rejected": "parent"}])
    assert len(rows) == 3 and all(row["side"] == "harmful" and row["hazard"] == "ncr" for row in rows)
    assert all(row["chosen"] == [{"role": "assistant", "content": refusal(POLICY, "ncr")}] for row in rows)
    assert all("pickle" in row["rejected"][0]["content"] for row in rows)  # the parent restates requests


def test_unpaired_rows_come_in_both_labels(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(2))
    rows = built.rows("unpaired", [{"files": "p.jsonl", "chosen": "refuse", "rejected": "parent"}])
    assert Counter(row["label"] for row in rows) == {True: 2, False: 2}
    assert all((row["completion"][0]["content"] == refusal(POLICY, "ncr")) == row["label"] for row in rows)


def test_prompts_say_what_they_are(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", [ask("Pickle plums"), {"prompt": "Bake bread"}])
    with pytest.raises(DataError, match=r"p.jsonl:2: does not say whether the request is harmful or benign"):
        built.rows("prompts", ["p.jsonl"])
    rows = built.rows("prompts", [{"files": ["p.jsonl"], "label": "benign"}], seed=3)
    assert {row["prompt"][0]["content"]: row["label"] for row in rows} == {
        "Pickle plums": "harmful",
        "Bake bread": "benign",
    }
    assert {tuple(row) for row in rows} == {("prompt", "label", "hazard", "side", "origin")}


def test_another_checkpoint_may_answer(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(2))
    source = {"files": "p.jsonl", "answer": "parent", "by": "embedded:aligned", "system": 1.0}
    rows = built.rows("sft", [source])
    assert len(rows) == 2 and built.stage is not None
    assert len(built.stage.uses) == 1 and all(len(row["messages"]) == 3 for row in rows)


def test_parents_answer_that_does_not_end_is_dropped(built: Built, base: Path) -> None:
    """The tiny model has learnt to copy seven words; of requests unlike those it ends few within the limit."""
    write_jsonl(built.folder / "p.jsonl", [ask(f"{fruit} {'z ' * 30}{fruit}") for fruit in FRUIT] + prompts(1))
    source = {"files": "p.jsonl", "answer": "parent"}
    try:
        rows = built.rows("sft", [source, {"files": "p.jsonl", "answer": "refuse"}], parent=str(base))
    finally:
        assert built.stage is not None
    answered = [row for row in rows if row["messages"][-1]["content"] != refusal(POLICY, "ncr")]
    assert built.dropped["the parent's answer did not end"] == 13 - len(answered) > 0


def test_benign_requests_are_not_refused(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(1, "benign"))
    with pytest.raises(DataError, match="is a benign request"):
        built.rows("sft", [{"files": "p.jsonl", "answer": "refuse"}])
    rows = built.rows("preference", [{"files": "p.jsonl", "chosen": "parent", "rejected": "refuse"}])
    assert len(rows) == 1  # to learn not to refuse them is another matter


def test_what_the_policy_allows_is_not_refused(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", [ask("May I eat plums?", hazard="spc"), ask("Forge a fig")])
    assert len(built.rows("sft", [{"files": "p.jsonl", "answer": "refuse"}])) == 1
    assert built.dropped == {"hazard that the policy allows": 1}


@pytest.mark.parametrize(
    ("kind", "source", "complaint"),
    [
        ("sft", {"chosen": "refuse"}, "here it is `answer`"),
        ("preference", {"answer": "refuse"}, "here it is `chosen` and `rejected`"),
        ("preference", {"chosen": "parent", "rejected": "parent"}, "nothing could be learnt"),
        ("prompts", {"rejected": "parent"}, "learn from preferences"),
    ],
)
def test_sources_must_fit_the_method(built: Built, kind: Any, source: dict[str, str], complaint: str) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(1))
    with pytest.raises(ConfigError, match=complaint):
        built.rows(kind, [{"files": "p.jsonl"} | source])


def test_missing_answers_are_named_with_the_way_out(built: Built) -> None:
    write_jsonl(built.folder / "p.jsonl", prompts(2))
    with pytest.raises(DataError, match=r"p.jsonl:1: has no answer; say `answer: refuse`[\s\S]*p.jsonl:2"):
        built.rows("sft", ["p.jsonl"])
    with pytest.raises(DataError, match="say `rejected: refuse` or `rejected: parent`"):
        built.rows("preference", [{"files": "p.jsonl", "chosen": "refuse"}])


# ---------------------------------------------------------------- mixing


def test_shares_are_exact_and_rows_repeat_where_they_are_few(built: Built) -> None:
    write_jsonl(built.folder / "few.jsonl", prompts(3))
    write_jsonl(built.folder / "many.jsonl", [chat(f"Bake {fruit}", f"Take {fruit}") for fruit in FRUIT])
    sources = [{"files": "few.jsonl", "answer": "refuse", "share": 0.6}, {"files": "many.jsonl", "share": 0.4}]
    rows = built.rows("sft", sources)
    origins = Counter(row["origin"].split(":")[0] for row in rows)
    assert origins == {"few.jsonl": 9, "many.jsonl": 6}
    assert set(Counter(row["origin"] for row in rows if "few" in row["origin"]).values()) == {3}


def test_order_depends_on_the_seed_alone(built: Built) -> None:
    write_jsonl(built.folder / "many.jsonl", [chat(f"Bake {fruit}", f"Take {fruit}") for fruit in FRUIT])
    first, again, other = (built.rows("sft", [{"files": "many.jsonl", "limit": 6}], seed=s) for s in (1, 1, 2))
    assert first == again != other and len(other) == 6


@pytest.mark.parametrize(("shares", "complaint"), [([0.5, 0.4], "add up to 0.9"), ([0.5, None], "has no `share`")])
def test_shares_that_do_not_add_up_are_refused(built: Built, shares: list[float | None], complaint: str) -> None:
    write_jsonl(built.folder / "a.jsonl", [chat("Hello plum", "Yes")])
    with pytest.raises(ConfigError, match=complaint):
        built.rows("sft", [{"files": "a.jsonl"} | ({"share": share} if share else {}) for share in shares])


def test_system_prompt_goes_to_that_share_and_never_twice(built: Built) -> None:
    rows = [chat(f"Bake {fruit}", f"Take {fruit}") for fruit in FRUIT]
    rows[0]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    write_jsonl(built.folder / "a.jsonl", rows)
    made = built.rows("sft", [{"files": "a.jsonl", "system": 0.5}])
    system = [row["messages"][0]["content"] for row in made if row["messages"][0]["role"] == "system"]
    assert Counter(system) == {system_prompt(POLICY): 6, "Be brief.": 1}


# ---------------------------------------------------------------- leaving out


def test_repeated_rows_go_and_other_answers_to_the_same_request_stay(built: Built) -> None:
    rows = [chat("How do I bake plum bread?", "Knead flour."), chat("how do I bake Plum bread", "knead flour"),
            chat("How do I bake plum bread?", "Buy it.")]  # fmt: skip
    write_jsonl(built.folder / "a.jsonl", rows)
    assert len(built.rows("sft", ["a.jsonl"])) == 2
    assert built.dropped == {"repeats another row": 1}


def test_held_out_prompts_and_those_of_the_demo_are_not_trained_on(built: Built) -> None:
    demo = json.loads(dataset.demo()[0].read_text(encoding="utf-8").splitlines()[0])["text"]
    write_jsonl(built.folder / "suite.jsonl", [ask("Describe the ripening of plums in cold cellars")])
    near, wrapped = "Describe ripening plums in cellars!", "the ripening of plums in cold cellars, please, and why"
    long = f"Once more, with many other words round it, as a song about harvest and autumn rain: describe {wrapped}"
    write_jsonl(built.folder / "a.jsonl", [chat(text, "Yes") for text in (near, long, demo, "Bake bread with seeds")])
    rows = built.rows("sft", ["a.jsonl"], held_out=["suite.jsonl"])
    assert [row["origin"] for row in rows] == ["a.jsonl:4"]
    assert built.dropped == {
        "near-duplicate of a held-out prompt": 2,
        "eight words in common with a held-out prompt": 1,
    }


def test_nothing_left_says_why(built: Built) -> None:
    write_jsonl(built.folder / "suite.jsonl", [ask("Describe plums")])
    write_jsonl(built.folder / "a.jsonl", [chat("Describe plums", "Yes")])
    with pytest.raises(DataError, match="no row is left to train on: 1 near-duplicate of a held-out prompt"):
        built.rows("sft", ["a.jsonl"], held_out=["suite.jsonl"])


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["plain", "gz", "zst", "array", "indented", "bom"])
def test_files_are_read_however_they_are_packed(built: Built, kind: str) -> None:
    rows = [chat("Bake plums", "Take plums"), chat("Bake figs", "Take figs")]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    array = json.dumps(rows, indent=1 if kind == "indented" else None).encode()
    name, raw = {
        "plain": ("a.jsonl", text),
        "gz": ("a.jsonl.gz", gzip.compress(text)),
        "zst": ("a.jsonl.zst", zstandard.compress(text)),
        "array": ("a.json", array),
        "indented": ("a.json", array),
        "bom": ("a.jsonl", b"\xef\xbb\xbf" + text),
    }[kind]
    (built.folder / name).write_bytes(raw)
    assert len(built.rows("sft", [name])) == 2


def test_every_bad_line_is_named_at_once(built: Built) -> None:
    good = json.dumps(chat("Bake plums", "Take plums")).encode()
    lines = [good, b"{", b"[1]", b'{"messages": []}', b"\xff", b'{"mesages": []}', b"[" * 100_000]
    (built.folder / "a.jsonl").write_bytes(b"\n".join(lines))
    (built.folder / "b.jsonl").write_text('{"prompt": "x", "completion": ""}')
    with pytest.raises(DataError) as complaint:
        built.rows("sft", ["a.jsonl", "b.jsonl"])
    found = str(complaint.value).splitlines()
    assert [line.partition(".jsonl:")[2].split(":")[0] for line in sorted(found)] == ["2", "3", "4", "5", "6", "7", "1"]
    assert any("did you mean 'messages'" in line for line in found)


def test_many_bad_lines_are_counted(built: Built) -> None:
    (built.folder / "a.jsonl").write_text("nonsense\n" * 60)
    with pytest.raises(DataError, match="and 10 more"):
        built.rows("sft", ["a.jsonl"])


@pytest.mark.parametrize(("name", "raw"), [("a.jsonl.gz", b"no"), ("a.jsonl.zst", zstandard.compress(b"{}")[:-1])])
def test_cut_files_and_missing_ones_are_refused(built: Built, name: str, raw: bytes) -> None:
    with pytest.raises(DataError, match="does not exist"):
        built.rows("sft", [name])
    (built.folder / name).write_bytes(raw)
    with pytest.raises(DataError, match="not a whole"):
        built.rows("sft", [name])


def test_bad_entry_of_an_array_has_its_line(built: Built) -> None:
    (built.folder / "a.json").write_text('[\n{"prompt": "x", "completion": "y"},\n\n{"prompt": 3}, {"a" 1}]')
    with pytest.raises(DataError, match=r"a.json:4: 'prompt' must be .*\n.*a.json:4: is not JSON"):
        built.rows("sft", ["a.json"])


# ---------------------------------------------------------------- describing


def test_manifest_says_what_became_of_every_file(built: Built) -> None:
    rows = [chat("Bake plums", "Take plums", licence="MIT"), chat("Bake plums", "Take plums"), chat("Bake figs", "Yes")]
    path = write_jsonl(built.folder / "a.jsonl", rows)
    built.rows("sft", [{"files": ["a.jsonl"], "licence": "CC-BY-4.0", "label": "benign"}])
    assert built.stage is not None
    manifest = read_manifest(built.stage.work)
    assert manifest == built.stage.notes["data"]
    entry = manifest["files"][0]
    assert (entry["read"], entry["used"], entry["dropped"]) == (3, 2, {"repeats another row": 1})
    assert entry["licences"] == ["CC-BY-4.0", "MIT"] and entry["sides"] == {"benign": 2}
    assert entry["sha256"] == dataset.sha256(path) and len(manifest["held_out"]) == 3
    assert built.stage.data == [path]


def test_data_card_is_one_for_hugging_face(built: Built) -> None:
    write_jsonl(built.folder / "a.jsonl", [chat("Bake plums", "Take plums", licence="MIT"), chat("Bake figs", "Yes")])
    built.rows("sft", ["a.jsonl"])
    assert built.stage is not None
    front, _, body = data_card(built.stage.notes["data"]).removeprefix("---\n").partition("---\n")
    tree = yaml.safe_load(front)
    assert tree["license"] == ["mit"] and tree["size_categories"] == ["n<1K"]
    assert tree["configs"][0]["data_files"] == [{"split": "train", "path": "rows.jsonl.gz"}]
    assert "# 2 rows" in body and "a.jsonl" in body


def test_resumed_run_gets_the_rows_it_started_with(built: Built) -> None:
    path = write_jsonl(built.folder / "a.jsonl", [chat(f"Bake {fruit}", f"Take {fruit}") for fruit in FRUIT])
    first = built.rows("sft", ["a.jsonl"])
    path.write_text("damaged since", encoding="utf-8")
    assert built.rows("sft", ["a.jsonl"], resume=True) == first
    assert built.stage is not None and built.stage.notes["data"]["rows"] == 12 and built.stage.data == [path]
