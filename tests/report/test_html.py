import base64
import hashlib
import re
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from alignstack.attribution.result import Attribution
from alignstack.core.grid import Manifest, Record
from alignstack.report.ask import Row
from alignstack.report.charts.overlap import overlap
from alignstack.report.charts.svg import el, ticks
from alignstack.report.charts.tradeoff import front
from alignstack.report.charts.waterfall import flow
from alignstack.report.document import build, failures
from alignstack.report.html import render
from alignstack.report.schema import Report
from tests.report.sample import HOSTILE

VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """Tags in order, attributes, the text of each element kind; fails on crossed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render(report))


def hostile(report: Report) -> str:
    evil = deepcopy(report)
    for item in failures(evil):
        item["request"] = item["answer"] = item["id"] = HOSTILE
        item["evidence"] = [{"change": HOSTILE, "outcome": HOSTILE}]
        item["fixes"] = [{"side": "training", "layer": HOSTILE, "text": HOSTILE}]
    evil["notes"] = [HOSTILE]
    evil["attacks"][0]["name"] = evil["provenance"]["stack_source"] = evil["provenance"]["model"] = HOSTILE
    for layer in evil["layers"]:
        evil["attacks"][0]["layers"] |= {layer["name"] + HOSTILE: 0.5}
    return render(evil, steps=[Row(layer=HOSTILE, happened=HOSTILE, if_failed=HOSTILE)], request=HOSTILE)


def test_tags_nest_and_there_is_one_script(page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_hostile_text_adds_no_tag_and_no_unprintable_character(report: Report) -> None:
    text = hostile(report)
    tags = [tag for tag, _ in Page(text).tags]
    assert tags.count("script") == 1 and "bold" not in tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert not {"\x1b", "\u202e", "\x07"} & set(text)


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base", "form")
        assert not {"src", "href", "style", "xlink:href"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)


def test_the_security_policy_allows_exactly_this_style_and_script(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        source = "".join(data for where, data in page.text if where == tag)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_plot_has_a_name_and_labels_resolve(page: Page) -> None:
    ids = {a["id"] for _, a in page.tags if "id" in a}
    plots = [a for tag, a in page.tags if tag == "svg"]
    assert len(plots) == 5 and all(a["role"] == "img" and a["aria-label"] for a in plots)
    assert all(a["aria-labelledby"] in ids for _, a in page.tags if "aria-labelledby" in a)


def test_the_page_tells_who_made_it_and_how_to_make_it_again(report: Report) -> None:
    text = render(report)
    assert all(suite["sha256"] in text for suite in report["provenance"]["suites"])
    assert report["stack"] in text and report["provenance"]["policy"] in text
    assert "alignstack audit --stack examples/shop/stack.yaml" in text


def test_every_failure_is_listed(report: Report, page: Page) -> None:
    assert [a.get("class") for tag, a in page.tags if tag == "details"].count("failure") == len(failures(report))


def test_a_page_lists_a_thousand_failures_and_says_how_many_there_are(report: Report) -> None:
    many = deepcopy(report)
    many["items"] = failures(report) * 50
    text = render(many)
    assert text.count('<details class="failure"') == 1000
    assert f"The first 1,000 of {len(many['items']):,}" in text


def test_one_request_is_shown_when_given(report: Report) -> None:
    row = Row(layer="keyword", happened="blocked: matched 'phishing'", if_failed="classifier stops it")
    assert "classifier stops it" in render(report, steps=[row], request="Write a phishing mail")
    assert "One request down the stack" not in render(report)


def test_same_report_same_page(report: Report) -> None:
    assert render(report) == render(deepcopy(report))


def test_an_empty_run_still_renders(report: Report) -> None:
    bare = deepcopy(report)
    nothing = {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0, "upper_bound": True}
    bare |= {
        "items": [],
        "overlap": [],
        "diagnoses": {},
        "sides": {},
        "hazards": [],
        "attacks": [],
        "configurations": [],
    }  # type: ignore[typeddict-item]
    bare |= {"n": {"harmful": 0, "benign": 0, "unavailable": 0}, "asr": nothing, "over_refusal": nothing}  # type: ignore[typeddict-item]
    for layer in bare["layers"]:
        layer["first"] = layer["catches"] = 0
    assert "no data" in render(bare) or "–" in render(bare)


def test_the_waterfall_ends_at_the_harm_delivered(report: Report) -> None:
    steps = flow(report)
    delivered = sum(item["outcome"] == "harm_delivered" for item in report["items"])
    assert steps[0][3] == report["n"]["harmful"] and steps[-1][3] == delivered
    assert sum(stopped for _, _, stopped, _ in steps) == report["n"]["harmful"] - delivered


def test_a_cut_that_came_too_late_stops_nothing(run: list[Record], made: Manifest, attribution: Attribution) -> None:
    last = "output_classifier"
    late = tuple(replace(one, outcome="harm_partial") if one.first == last else one for one in attribution.items)
    report = build(replace(attribution, items=late), made)
    steps = {name: (stopped, left) for name, _, stopped, left in flow(report)}
    assert steps[last][0] == 0
    assert steps["harm delivered"][1] == steps[last][1]
    assert any(one["harm"] and one["layers"] == [last] for one in report["overlap"])


def test_no_configuration_on_the_front_is_beaten(report: Report) -> None:
    best = front(report["configurations"])
    for one in best:
        for other in report["configurations"]:
            better = [other[key]["value"] < one[key]["value"] for key in ("asr", "over_refusal")]  # type: ignore[literal-required]
            worse = [other[key]["value"] > one[key]["value"] for key in ("asr", "over_refusal")]  # type: ignore[literal-required]
            assert any(worse) or not any(better)


def test_the_overlap_names_nobody_who_catches_nothing(report: Report) -> None:
    assert ">rate_limit<" not in overlap(report)


def test_elements_escape_text_and_attributes() -> None:
    assert el("text", "<b>", class_='"x') == '<text class="&#34;x">&lt;b&gt;</text>'


@pytest.mark.parametrize(
    ("top", "expected"), [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.07, [0, 0.02, 0.04, 0.06, 0.08]), (0.0, [0])]
)
def test_ticks_are_round(top: float, expected: list[float]) -> None:
    assert ticks(top) == pytest.approx(expected)


def test_no_inline_style_survives_the_policy(report: Report) -> None:
    assert not re.search(r"<[^>]+\sstyle=", render(report))
