"""What the numbers of a report say, in words: the same sentences on the terminal and on the page."""

import shlex
from collections import Counter
from pathlib import Path

from alignstack.redteam.suites import DEMO
from alignstack.report.document import alone, best_single, configuration
from alignstack.report.schema import Configuration, Price, Report
from alignstack.report.words import percent, plural, points, rate, short_rate, signed_span


def headline(report: Report) -> str:
    """The two numbers that only mean something together."""
    harmful, benign = report["asr"], report["over_refusal"]
    through = round(harmful["value"] * harmful["n"])
    refused = round(benign["value"] * benign["n"])
    return (
        f"{through:,} of {plural(harmful['n'], 'harmful request')} got through, "
        f"{refused:,} of {plural(benign['n'], 'benign one')} {'was' if 1 in (refused, benign['n']) else 'were'} refused"
    )


def summary(report: Report) -> str:
    """What the stack is worth against nothing, against the weights alone and against its best layer alone."""
    best = best_single(report)
    parts = [
        _against(configuration(report, "all off"), "With everything off {} got through"),
        _against(configuration(report, "weights only"), "with the aligned weights alone {}"),
        _against(best and alone(report, best["layer"]), "with the best single layer {}"),
        _against(configuration(report, "full stack"), "with the full stack {}"),
    ]
    said = [part for part in parts if part]
    return "; ".join(said) + "." if said else ""


def common_mode(report: Report) -> str:
    """How far the layers fail together."""
    mode = report["common_mode"]
    kappa, n_eff, layers = mode["kappa"], mode["n_eff"], len(mode["misses"])
    if kappa["value"] is None:
        return f"Common-mode failure is not measurable from this run: {mode['note'] or 'too few misses'}."
    sentence = (
        f"All {layers} layers miss together on {percent(mode['joint_miss'])} of "
        f"{plural(mode['n'], 'harmful request')}, {_times(kappa['value'])} as often as if they missed independently "
        f"({_number(kappa['low'])}–{_number(kappa['high'])})"
    )
    return sentence + (f": together they are worth {n_eff:.1f} independent layers of {layers}." if n_eff else ".")


def comparison(report: Report) -> str:
    """The full stack against its best single layer, on the same requests; empty when nothing was compared."""
    best = best_single(report)
    if best is None:
        return ""
    gap = best["difference"]
    p = "p < 0.001" if best["p_holm"] < 0.001 else f"p = {best['p_holm']:.3f}"
    return (
        f"Against the best single layer, {best['layer']}, the full stack stops {_more(gap['value'])} "
        f"({signed_span(gap['low'], gap['high'])}; exact McNemar, Holm over layers, {p})."
    )


def price(one: Price) -> str:
    """A threshold and its price: `out1 at threshold 0.31: 2 more benign requests refused, 0.4% (0.1–1.5, n = 500)`."""
    change = f"enforce {one['layer']}" if one["shadow"] else one["layer"]
    at = "" if one["threshold"] is None else f" at threshold {one['threshold']:.3g}"
    return f"{change}{at}: {plural(one['extra_refusals'], 'more benign request')} refused, {rate(one['rate'])}"


def remedy(report: Report, cause: str) -> tuple[str, str]:
    """(side, what to do) about all failures of one cause: the side that most of them name; the lowest price for
    thresholds, the layers to train for training, otherwise what is proposed most often."""
    items = [item for item in report["items"] if item["diagnosis"] == cause]
    side = Counter(item["side"] or "unknown" for item in items).most_common(1)[0][0]
    priced = [item["cheapest"] for item in items if item["cheapest"]]
    if cause == "threshold" and priced:
        return side, price(min(priced, key=lambda one: (one["extra_refusals"], one["layer"])))
    fixes = [fix for item in items for fix in item["fixes"] if fix["side"] == side]
    if side == "training" and fixes:
        layers = Counter(fix["layer"] or "model" for fix in fixes)
        return side, "train " + ", ".join(f"{layer} with {plural(n, 'request')}" for layer, n in layers.most_common())
    texts = Counter(fix["text"] for fix in fixes)
    return side, texts.most_common(1)[0][0] if texts else "read them: nothing is proposed"


def command(report: Report) -> str:
    """What makes this run again."""
    made = report["provenance"]
    files = [suite["file"] for suite in made["suites"]]
    if made["stack_source"] == "built-in" and {Path(file).name for file in files} == set(DEMO):
        return "alignstack demo"
    words = ["alignstack", "audit"]
    words += [] if made["stack_source"] == "built-in" else ["--stack", made["stack_source"]]
    words += [word for file in files for word in ("--suite", file)]
    attacks = ",".join(attack for attack in made["attacks"] if attack != "none")
    words += ["--attacks", attacks] if attacks else []
    return shlex.join([*words, "--draws", str(made["draws"]), "--seed", str(made["seed"]), "--out", "RUN"])


def _more(value: float) -> str:
    return f"{points(abs(value)).removeprefix('+')} points {'more' if value >= 0 else 'less'}"


def _against(one: Configuration | None, template: str) -> str:
    return template.format(short_rate(one["asr"])) if one else ""


def _times(value: float) -> str:
    return f"{_number(value)} times"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}" if value < 10 else f"{value:,.0f}"
