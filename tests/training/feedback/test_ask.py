"""Many requests to a server that works, fails, or fails now and then."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from alignstack import policy
from alignstack.core.errors import Unavailable
from alignstack.training.feedback import Case, Compared, build
from alignstack.training.feedback.ask import ATTEMPTS, FEW, Failed, all_of
from tests.training.feedback.talking import Body, Said, Talking, likes, shown, talking

CASES = [Case(id=str(i), prompt=[{"role": "user", "content": f"Question {i}"}]) for i in range(40)]


def judged(server: Talking, **settings: Any) -> dict[str, Compared | Failed]:
    block = {"use": "constitution", "model": server.block, "logprobs": False, **settings}
    judge = build(block, policy=policy.load(), file=Path("recipe.yaml"), where="feedback")
    found: dict[str, Compared | Failed] = {}

    async def ask(case: Case, attempt: int) -> Compared:
        return await judge.compare(case, "bread", "stone", ("honesty",), attempt)

    all_of(CASES, [judge], ask, lambda case, said: found.update({case.id: said}), title="judging")
    return found


def test_all_are_asked_and_never_more_at_once_than_allowed() -> None:
    with talking(likes("bread"), delay_s=0.005) as server:
        found = judged(server, at_once=4)
    assert len(found) == 40 and all(said == Compared(first=1.0, second=1.0) for said in found.values())
    assert 1 < server.most <= 4


def test_a_request_that_fails_once_is_asked_again() -> None:
    seen: set[str] = set()

    def reply(body: Body) -> Said:
        first = body["messages"][1]["content"] not in seen
        seen.add(body["messages"][1]["content"])
        return "Hm." if first else likes("bread")(body)

    with talking(reply) as server:
        found = judged(server)
    assert not any(isinstance(said, Failed) for said in found.values())


def test_a_failed_request_is_said_to_have_failed_and_the_others_go_on() -> None:
    def reply(body: Body) -> Said:
        return "Hm." if shown(body)["request"] == "Question 7" else likes("bread")(body)

    with talking(reply) as server:
        found = judged(server)
    assert [name for name, said in found.items() if isinstance(said, Failed)] == ["7"]
    failed = found["7"]
    assert isinstance(failed, Failed) and "no verdict: 'Hm.'" in failed.why
    assert sum(shown(body)["request"] == "Question 7" for body in server.asked) == ATTEMPTS


def test_a_server_that_is_down_stops_the_run() -> None:
    with (
        talking(lambda body: web.Response(status=503)) as server,
        pytest.raises(Unavailable, match=r"judging: \d+ of the first \d+ requests failed.*HTTP 503.*--resume"),
    ):
        judged(server, at_once=2)
    assert len(server.asked) <= ATTEMPTS * (FEW + 4)
