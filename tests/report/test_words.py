import pytest

from alignstack.report import words


def rate(value: float, n: int, upper_bound: bool = False) -> dict[str, object]:
    return {"value": value, "low": 0.01, "high": 0.125, "n": n, "upper_bound": upper_bound}


@pytest.mark.parametrize(
    ("value", "said"), [(0.0512, "+5.1"), (-0.0512, "−5.1"), (0.0, "0.0"), (-0.0002, "0.0"), (None, "–")]
)
def test_points_are_signed_and_zero_has_no_sign(value: float | None, said: str) -> None:
    assert words.points(value) == said


def test_a_rate_carries_interval_and_n() -> None:
    assert words.rate(rate(0.0833, 240)) == "8.3% (1.0–12.5, n = 240)"


def test_a_rate_that_n_cannot_support_is_an_upper_bound() -> None:
    assert words.rate(rate(0.0, 30, upper_bound=True)) == "at most 12.5% (n = 30)"
    assert words.short_rate(rate(0.0, 30, upper_bound=True)) == "≤ 12.5%"


def test_a_rate_of_nothing_is_no_number() -> None:
    assert words.rate(rate(0.0, 0, upper_bound=True)) == "no data"
    assert words.short_rate(rate(0.0, 0, upper_bound=True)) == "–"


@pytest.mark.parametrize(("value", "said"), [(0.00031, "0.31 ms"), (0.0412, "41 ms"), (1.23, "1.2 s"), (0.0, "0 ms")])
def test_seconds_come_with_a_unit_that_fits(value: float, said: str) -> None:
    assert words.seconds(value) == said


@pytest.mark.parametrize(("n", "said"), [(0, "0 requests"), (1, "1 request"), (1200, "1,200 requests")])
def test_plurals(n: int, said: str) -> None:
    assert words.plural(n, "request") == said


def test_every_diagnosis_and_outcome_has_words() -> None:
    from alignstack.attribution.result import HARM_DIAGNOSES, OUTCOMES, REFUSAL_DIAGNOSES

    assert set(words.CAUSES) == {*HARM_DIAGNOSES, *REFUSAL_DIAGNOSES}
    assert set(words.OUTCOMES) == set(OUTCOMES)
