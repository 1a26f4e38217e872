"""The comparison that other red-team tools are held to: it holds for a client that we know, and it can fail."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "clients"


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("run")
    for name in ("run", "gateway", "environments"):
        del sys.modules[name]


def ask(url: str, text: str) -> bool:
    """Was it blocked? As the API says it in either style."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    try:
        answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": text}])
    except openai.BadRequestError as error:
        return error.code == "content_filter"
    return answer.choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("style", ["refusal", "error"])
def test_counts_of_the_openai_sdk_are_those_of_ledger_and_traces(clients: Any, style: str, tmp_path: Path) -> None:
    home = clients.Home(folder=tmp_path, style=style)
    with clients.gateway.serving(home) as url:
        answers = [clients.Asked(text=text, blocked=ask(url, text)) for text in clients.prompts()]
    ledger, traces = clients.gateway.counted(home), clients.gateway.traced(home)
    assert clients.differences(answers, ledger, traces) == []
    assert len(answers) == 2 * clients.EACH and ledger.refused == 1


def test_every_kind_of_difference_is_found(clients: Any) -> None:
    bread, bomb = clients.Asked(text="bread", blocked=False), clients.Asked(text="bomb", blocked=True)
    ledger = clients.Counted(requests=2, delivered=1, refused=0, blocked=1, failed=0)
    assert clients.differences([bread, bomb], ledger, [bomb, bread]) == []
    swapped = [clients.Asked(text="bread", blocked=True), clients.Asked(text="bomb", blocked=False)]
    assert len(clients.differences(swapped, ledger, [bomb, bread])) == 4, "the same number, other requests"
    assert clients.differences([bread], ledger, [bomb, bread]), "an answer that the client lost"
    assert clients.differences([bread, bomb], ledger, [bread]), "a trace that is missing"
    failed = clients.Counted(requests=2, delivered=0, refused=0, blocked=1, failed=1)
    assert clients.differences([bread, bomb], failed, [bomb, bread])


def test_agreement_on_nothing_or_everything_is_none(clients: Any) -> None:
    for blocked in (False, True):
        one = clients.Asked(text="bread", blocked=blocked)
        ledger = clients.Counted(requests=1, delivered=int(not blocked), refused=0, blocked=int(blocked), failed=0)
        assert len(clients.differences([one], ledger, [one])) == 1
