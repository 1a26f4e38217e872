"""What the numbers of a report say, in words: the same sentences on the terminal and on the page."""

# ruff: noqa: RUF001, RUF002 (dashes and minus signs as print has them)

from alignstack.report.document import best_single, configuration
from alignstack.report.schema import Configuration, Price, Report
from alignstack.report.words import percent, plural, rate, short_rate


def headline(report: Report) -> str:
    """The two numbers that only mean something together."""
    harmful, benign = report["asr"], report["over_refusal"]
    through = round(harmful["value"] * harmful["n"])
    refused = round(benign["value"] * benign["n"])
    return (
        f"{through:,} of {plural(harmful['n'], 'harmful request')} got through, "
        f"{refused:,} of {plural(benign['n'], 'benign one')} {'was' if refused == 1 else 'were'} refused"
    )


def summary(report: Report) -> str:
    """What the stack is worth against nothing, against the weights alone and against its best layer alone."""
    parts = [
        _against(configuration(report, "all off"), "With everything off {} got through"),
        _against(configuration(report, "weights only"), "with the aligned weights alone {}"),
        _against(best_single(report), "with the best single layer {}"),
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


def price(one: Price) -> str:
    """A threshold and what it costs: `threshold 0.31 on out1: 2 more benign requests refused (0.4%, 0.1–1.5)`."""
    change = f"enforce {one['layer']}" if one["shadow"] else one["layer"]
    at = "" if one["threshold"] is None else f" at threshold {one['threshold']:.3g}"
    more = plural(one["extra_refusals"], "more benign request")
    return f"{change}{at}: {more} refused, {rate(one['rate'])}"


def command(report: Report) -> str:
    """What makes this run again."""
    made = report["provenance"]
    stack = "" if made["stack_source"] == "built-in" else f" --stack {made['stack_source']}"
    suites = "".join(f" --suite {suite['file']}" for suite in made["suites"])
    attacks = "".join(f" --attacks {attack}" for attack in made["attacks"] if attack != "none")
    return f"alignstack audit{stack}{suites}{attacks} --seed {made['seed']} --draws {made['draws']} --out RUN"


def _against(one: Configuration | None, template: str) -> str:
    return template.format(short_rate(one["asr"])) if one else ""


def _times(value: float) -> str:
    return f"{_number(value)} times"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
