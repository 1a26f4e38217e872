from copy import deepcopy

from alignstack.report import sentences
from alignstack.report.schema import Price, Report


def test_the_headline_holds_both_directions(report: Report) -> None:
    text = sentences.headline(report)
    assert f"of {report['asr']['n']} harmful requests got through" in text
    assert f"of {report['over_refusal']['n']} benign ones" in text


def test_one_benign_request_was_refused_or_not(report: Report) -> None:
    one = deepcopy(report)
    one["over_refusal"] |= {"value": 0.0, "n": 1}
    assert sentences.headline(one).endswith("0 of 1 benign one was refused")


def test_the_summary_compares_with_less(report: Report) -> None:
    text = sentences.summary(report)
    assert text.startswith("With everything off ") and "with the full stack" in text


def test_common_mode_says_how_often_and_what_it_is_worth(report: Report) -> None:
    text = sentences.common_mode(report)
    assert "times as often as if they missed independently" in text and "independent layers of" in text


def test_common_mode_that_cannot_be_measured_says_why(report: Report) -> None:
    blank = deepcopy(report)
    blank["common_mode"] |= {"kappa": {"value": None, "low": None, "high": None}, "note": "one layer never misses"}  # type: ignore[typeddict-item]
    assert (
        sentences.common_mode(blank) == "Common-mode failure is not measurable from this run: one layer never misses."
    )


def test_a_stack_that_is_worse_than_one_layer_stops_less(report: Report) -> None:
    worse = deepcopy(report)
    for one in worse["comparisons"]:
        one["difference"] |= {"value": -0.02, "low": -0.05, "high": 0.01}  # type: ignore[typeddict-item]
    assert "stops 2.0 points less (−5.0 to +1.0;" in sentences.comparison(worse)


def test_a_price_has_its_interval() -> None:
    rate = {"value": 0.00833, "low": 0.0015, "high": 0.0456, "n": 120, "upper_bound": False}
    one: Price = {"layer": "out1", "threshold": 0.3123, "extra_refusals": 1, "rate": rate, "shadow": False, "where": ""}  # type: ignore[typeddict-item]
    assert sentences.price(one) == "out1 at threshold 0.312: 1 more benign request refused, 0.8% (0.1–4.6, n = 120)"


def test_every_cause_has_a_side_and_something_to_do(report: Report) -> None:
    for cause in report["diagnoses"]:
        side, remedy = sentences.remedy(report, cause)
        assert side in ("training", "inference", "unknown") and remedy


def test_the_command_makes_the_run_again(report: Report) -> None:
    assert sentences.command(report) == (
        "alignstack audit --stack examples/shop/stack.yaml --suite demo_harmful.jsonl --suite demo_benign.jsonl "
        "--attacks role_play,base64,leetspeak --draws 1 --seed 0 --out RUN"
    )


def test_file_names_with_spaces_are_quoted(report: Report) -> None:
    spaced = deepcopy(report)
    spaced["provenance"]["stack_source"] = "my stacks/stack.yaml"
    assert "--stack 'my stacks/stack.yaml'" in sentences.command(spaced)
