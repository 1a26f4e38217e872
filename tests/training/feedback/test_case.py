import pytest

from alignstack.training.feedback.case import Case, Compared, cases, declines


def row(origin: str, *turns: str) -> dict:
    roles = ("user", "assistant") * 4
    return {"origin": origin, "prompt": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]}


def test_repeated_rows_are_asked_once_and_namesakes_are_told_apart() -> None:
    made = cases([row("a.jsonl:1", "x"), row("a.jsonl:1", "x"), row("a.jsonl:1", "y"), row("a.jsonl:2", "x")])
    assert [(case.id, case.request) for case in made] == [("a.jsonl:1", "x"), ("a.jsonl:1'", "y"), ("a.jsonl:2", "x")]


def test_a_judge_reads_all_turns_but_the_systems() -> None:
    (case,) = cases([row("a.jsonl:1", "Hello", "Hi", "Bake bread")])
    assert case.request == "User: Hello\n\nAssistant: Hi\n\nUser: Bake bread"
    system = {"role": "system", "content": "secret"}
    assert Case(id="b", prompt=[system, {"role": "user", "content": "Hello"}]).request == "Hello"


@pytest.mark.parametrize(
    ("first", "second", "place", "p"),
    [(0.9, 0.7, None, 0.8), (0.2, 0.4, None, 0.3), (0.9, 0.2, "first", 0.5), (0.4, 0.6, "second", 0.5),
     (1.0, 0.5, None, 0.75), (0.5, 0.5, None, 0.5)],
)  # fmt: skip
def test_both_orders_count_unless_the_verdict_follows_them(
    first: float, second: float, place: str | None, p: float
) -> None:
    said = Compared(first=first, second=second)
    assert (said.place, said.p) == (place, pytest.approx(p))


@pytest.mark.parametrize("text", ["I can't help with that. Ask a doctor.", "*I can\u2019t do it", "i cannot say"])
def test_refusals_are_known_by_their_opening(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize("text", ["Sure. I can't wait to help.", "", "You cannot bake bread without heat."])
def test_other_answers_are_not(text: str) -> None:
    assert not declines(text)
