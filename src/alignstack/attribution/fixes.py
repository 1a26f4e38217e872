"""What to do about one failure, on both sides: which data for whom, and which line of configuration at what price."""

from alignstack.attribution.evidence import Failure, cost_of, rounded_down
from alignstack.attribution.layout import MODEL
from alignstack.attribution.result import Diagnosis, Fix, Price
from alignstack.core.grid import LayerRow
from alignstack.core.layer import Side

SIDES: dict[Diagnosis, Side] = {
    "layer_down": "inference",
    "late_cut": "inference",
    "policy_gap": "inference",
    "evidence_withheld": "inference",
    "threshold": "inference",
    "blind": "training",
    "unavailable": "inference",
    "sole_blocker": "inference",
    "joint": "inference",
    "model_refused": "training",
}
"""Where the fix belongs. `introduced` follows its layer; `judge_disputed` and `unknown` have nothing to fix yet."""


def side(failure: Failure) -> Side | None:
    if failure.diagnosis == "introduced" and failure.row is not None:
        return failure.row.side
    return SIDES.get(failure.diagnosis)


def fixes(failure: Failure) -> tuple[Fix, ...]:
    """One on each side; none while judges disagree about whether there is anything to fix."""
    if failure.diagnosis == "judge_disputed":
        return ()
    return tuple(fix for fix in (_training(failure), _inference(failure)) if fix is not None)


def _training(failure: Failure) -> Fix | None:
    row = failure.row
    trainable = row is not None and row.kind == "veto" and row.threshold is not None
    about = f" (hazard {failure.hazard})" if failure.hazard else ""
    if failure.diagnosis == "unavailable":
        return None
    if failure.matrix.harmful[failure.item]:
        if trainable:
            return _fix(
                "training", failure.layer, f"train {failure.layer} with this request as a harmful example{about}"
            )
        return _fix("training", MODEL, f"train the weights to refuse this request{about}, attack included")
    if trainable:
        return _fix("training", failure.layer, f"train {failure.layer} with this request as a benign example{about}")
    if failure.diagnosis in ("sole_blocker", "joint") and MODEL not in failure.blockers:
        return None  # the weights had answered it
    return _fix("training", MODEL, f"train the weights to answer this request{about}, beside harmful look-alikes")


def _inference(failure: Failure) -> Fix | None:
    row = failure.row
    line = f"{row.where or row.name}: " if row is not None else ""
    texts: dict[Diagnosis, str] = {
        "layer_down": f"{line}`on_error: block`, or a longer `timeout_ms`",
        "introduced": f"{line}change or remove {failure.layer}, which creates this failure",
        "late_cut": f"{line}check in smaller windows, or hold the answer until it has been checked",
        "policy_gap": f"add {failure.hazard!r} to the `hazards` of a layer; no layer covers it",
        "evidence_withheld": f"{line}let {failure.layer} see all of it: raise `max_chars`, or move it up",
        "unavailable": _answering(failure, line),
        "sole_blocker": f"{line}{_raised(failure)}",
        "joint": f"{', '.join(failure.blockers)} all block this: each of them must change",
        "model_refused": "system prompt: say that requests like this one are welcome",
    }
    if failure.diagnosis == "introduced" and failure.layer == MODEL and failure.prices:
        return _priced(failure, failure.prices[0])
    if failure.diagnosis in texts:
        return _fix("inference", failure.layer, texts[failure.diagnosis])
    if failure.prices:
        return _priced(failure, failure.prices[0])
    if failure.matrix.harmful[failure.item]:
        return _fix("inference", None, "no threshold of any layer reaches this request: it needs another layer")
    return None


def _answering(failure: Failure, line: str) -> str:
    if failure.matrix.unavailable[failure.item].any():
        return (
            "model: it gave no answer; mend its server, or give it longer, and `alignstack audit --resume` asks again"
        )
    return f"{line}a longer `timeout_ms`, or `on_error: allow` if the other layers suffice"


def _raised(failure: Failure) -> str:
    if failure.released < 0:
        return "narrow what it matches"
    of = f"{failure.released} more of {failure.harmful_items} harmful requests"
    return f"a `threshold` above this item's score lets {of} through"


def _priced(failure: Failure, price: Price) -> Fix:
    row = next(row for row in failure.matrix.layout.vetoes if row.name == price.layer)
    enforce = "`mode: enforce`, " if price.shadow else ""
    change = f"`threshold: {rounded_down(price.threshold)}`{_now(row)}" if price.threshold is not None else "as it is"
    return _fix("inference", price.layer, f"{row.where or row.name}: {enforce}{change}: {cost_of(price)}")


def _now(row: LayerRow) -> str:
    return f" in place of {row.threshold:g}" if row.threshold is not None else ""


def _fix(where: Side, layer: str | None, text: str) -> Fix:
    return Fix(side=where, layer=layer, text=text)
