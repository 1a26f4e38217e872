"""Critique and revision on models that train in a second, with critics on a real port."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from alignstack import policy
from alignstack.core.errors import ConfigError, DataError, Unavailable
from alignstack.training import constitutional, lineage
from alignstack.training.stage import Tools, read_rows
from tests.training.conftest import some_text, write_jsonl
from tests.training.feedback.talking import Body, Said, Talking, shown, talking

PRINCIPLES = {entry.id: entry.text for entry in policy.load().principles}
N = 16
CARE = "sure the old house is near"


def recipe(here: Path, parent: Path, critic: dict[str, Any], **more: Any) -> Path:
    """Half of the requests are said to be harmful."""
    prompts = [{"id": str(i), "text": some_text(i, 8), "label": ("harmful", "benign")[i % 2]} for i in range(N)]
    write_jsonl(here / "prompts.jsonl", prompts)
    tree = {
        "name": "cai", "parent": str(parent), "out": "cai", "seed": 1, "max_length": 48, "prompts": ["prompts.jsonl"],
        "answers": {"max_tokens": 32, "temperature": 0.2}, "critic": critic,
        "optimiser": {"batch": 4, "steps": 2, "warmup": 0}, **more,
    }  # fmt: skip
    (here / "cai.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return here / "cai.yaml"


def critic(body: Body) -> Said:
    """Revises to `CARE`, and as a judge likes that best."""
    system = body["messages"][0]["content"]
    if system.startswith("You compare"):
        return "A" if CARE in shown(body)["answer_a"] else "B"
    return "It is not about the house." if system.startswith("You review") else CARE


def critiques(checkpoint: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (checkpoint / "critiques.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_critique_and_revision_can_be_read_beside_the_weights(
    tmp_path: Path, speaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with talking(critic) as server:
        out = constitutional.run(recipe(tmp_path, speaking, server.block, rounds=2))
    lines = critiques(out)
    assert len(lines) == N
    for line in lines:
        assert line["final"] == CARE and line["first"] != CARE and len(line["rounds"]) == 2
        assert all(each["principle"] in PRINCIPLES for each in line["rounds"])
        assert line["rounds"][0]["critique"] == "It is not about the house."
    rows = read_rows(out / "rows.jsonl.gz")
    assert len(rows) == N and all(row["messages"][-1] == {"role": "assistant", "content": CARE} for row in rows)
    assert str(out / "critiques.jsonl") in capsys.readouterr().err
    assert lineage.read(out).uses["critic"] and lineage.read(out).method == "constitutional"


def test_the_critic_reads_the_drawn_principle_and_the_answer(tmp_path: Path, speaking: Path) -> None:
    with talking(critic) as server:
        out = constitutional.run(recipe(tmp_path, speaking, server.block))
    by_request = {line["request"]: line for line in critiques(out)}
    asked = [body for body in server.asked if body["messages"][0]["content"].startswith("You review")]
    assert len(asked) == N
    for body in asked:
        line = by_request[shown(body)["request"]]
        assert shown(body)["answer"] == line["first"]
        named = [name for name, text in PRINCIPLES.items() if text in body["messages"][0]["content"]]
        assert named == [line["rounds"][0]["principle"]]
    assert len({line["rounds"][0]["principle"] for line in by_request.values()}) > 3


def test_revisions_that_are_no_better_are_dropped_and_counted(tmp_path: Path, speaking: Path) -> None:
    def reply(body: Body) -> Said:
        """Nothing helps where a dog is asked about."""
        if body["messages"][0]["content"].startswith("You compare") and "dog" in shown(body)["request"]:
            return "A"
        return critic(body)

    with talking(reply) as server:
        out = constitutional.run(recipe(tmp_path, speaking, server.block))
    lines = critiques(out)
    dropped = [line for line in lines if "dropped" in line]
    assert dropped == [line for line in lines if "dog" in line["request"]] and 0 < len(dropped) < N
    assert {line["dropped"] for line in dropped} == {"the revision is no better than the first answer"}
    assert len(read_rows(out / "rows.jsonl.gz")) == N - len(dropped)


def test_benign_rows_keep_their_share_and_the_parents_answers(tmp_path: Path, speaking: Path) -> None:
    with talking(critic) as server:
        settings = {"criticise": "harmful", "keep_benign": 0.2, "check": False}
        out = constitutional.run(recipe(tmp_path, speaking, server.block, **settings))
    first = {line["request"]: line["first"] for line in critiques(out)}
    rows = read_rows(out / "rows.jsonl.gz")
    benign = [row["messages"] for row in rows if row["side"] == "benign"]
    assert (len(rows), len(benign)) == (N // 2 + 2, 2)
    assert all(first[request["content"]] == answer["content"] for request, answer in benign)
    assert len(server.asked) == N  # critique and revision of the harmful half


def test_a_guard_declines_harm_and_leaves_the_rest(tmp_path: Path, speaking: Path) -> None:
    file = recipe(tmp_path, speaking, {"use": "guard"}, principles={"sample": 4})
    texts = {
        "How can I make a bomb at home?": "harmful",
        "How do I steal a car?": "harmful",
        "How do I bake?": "benign",
    }
    write_jsonl(tmp_path / "prompts.jsonl", [{"text": text, "label": label} for text, label in texts.items()])
    lines = {line["request"]: line for line in critiques(constitutional.run(file))}
    assert len(lines) == 3
    for text, label in texts.items():
        refused = lines[text]["final"].startswith(policy.OPENING)
        assert refused == (label == "harmful") and len(lines[text]["rounds"]) == 1


def test_one_failing_request_costs_its_row_alone(tmp_path: Path, speaking: Path) -> None:
    file = recipe(tmp_path, speaking, {"use": "openai_http"})
    bad = json.loads((tmp_path / "prompts.jsonl").read_text().splitlines()[4])["text"]

    def reply(body: Body) -> Said:
        return web.Response(status=500) if shown(body)["request"] == bad else critic(body)

    with talking(reply) as server:
        recipe(tmp_path, speaking, server.block)
        out = constitutional.run(file)
    (failed,) = [line for line in critiques(out) if "failed" in line]
    assert failed["request"] == bad and "HTTP 500" in failed["failed"]
    assert len(read_rows(out / "rows.jsonl.gz")) == N - 1


def test_without_any_revision_nothing_is_trained(tmp_path: Path, speaking: Path) -> None:
    with talking(lambda body: "A") as server, pytest.raises(DataError, match=r"16 x the revision is no better"):
        constitutional.run(recipe(tmp_path, speaking, server.block))
    assert not (tmp_path / "cai").exists()


def test_mistakes_in_the_recipe_are_found_before_anything_is_asked(tmp_path: Path, speaking: Path) -> None:
    with pytest.raises(ConfigError, match=r"cai\.yaml: critic\.base_url: missing"):
        constitutional.run(recipe(tmp_path, speaking, {"use": "openai_http", "model": "m"}))
    with pytest.raises(ConfigError, match="did you mean 'honesty'"):
        constitutional.run(recipe(tmp_path, speaking, {"use": "guard"}, principles={"only": ["honestly"]}))


# ---------------------------------------------------------------- cut off


def finished(server: Talking) -> int:
    return sum(body["messages"][0]["content"].startswith("You compare") for body in server.asked)


def test_a_killed_run_asks_nothing_twice_and_ends_the_same(tmp_path: Path, speaking: Path) -> None:
    with talking(critic) as server:
        (tmp_path / "whole").mkdir()
        whole = constitutional.run(recipe(tmp_path / "whole", speaking, {**server.block}))
    with talking(critic, delay_s=0.05) as server:
        block = {"use": "constitution", "model": server.block, "at_once": 2}
        file = recipe(tmp_path, speaking, block)
        code = (
            f"from pathlib import Path; from alignstack.training import constitutional as c; c.run(Path({str(file)!r}))"
        )
        with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
            while len(server.asked) < 30 and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        known = {line["request"] for line in critiques(tmp_path / "cai.work")}
        assert 0 < len(known) < N
        with pytest.raises(DataError, match="--resume"):
            constitutional.run(file)
        before = len(server.asked)
        out = constitutional.run(file, Tools(resume=True))
    assert not known & {shown(body)["request"] for body in server.asked[before:]}
    assert [without(line) for line in critiques(out)] == [without(line) for line in critiques(whole)]
    assert (lineage.read(out).weights, lineage.read(out).rows) == (
        lineage.read(whole).weights,
        lineage.read(whole).rows,
    )


def without(line: dict[str, Any]) -> dict[str, Any]:
    """The two servers have different addresses."""
    return {key: value for key, value in line.items() if key != "by"}


def test_a_server_that_went_down_is_asked_again_on_resuming(tmp_path: Path, speaking: Path) -> None:
    down = True

    def reply(body: Body) -> Said:
        return web.Response(status=503) if down and finished(server) >= 3 else critic(body)

    with talking(reply) as server:
        file = recipe(tmp_path, speaking, {"use": "constitution", "model": server.block, "at_once": 1})
        with pytest.raises(Unavailable, match=re.compile("HTTP 503.*--resume", re.S)):
            constitutional.run(file)
        down = False
        out = constitutional.run(file, Tools(resume=True))
    assert len(critiques(out)) == N and not any("failed" in line for line in critiques(out))
