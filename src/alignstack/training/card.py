"""Model cards in Hugging Face form: what a checkpoint is made of and what it did inside a deployment.

The numbers stand twice: in the front matter's `model-index`, for programs, and in a table, for people. Whatever comes
from recipes, files and data is escaped: a card is shown as a web page.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alignstack import __version__
from alignstack.training.lineage import Stage

RATES = {
    "asr/off": ("asr_guards_off", "attack success rate, guards off"),
    "asr/on": ("asr_guards_on", "attack success rate, guards on"),
    "over_refusal/off": ("over_refusal_guards_off", "over-refusal, guards off"),
    "over_refusal/on": ("over_refusal_guards_on", "over-refusal, guards on"),
    "tasks": ("exact_match", "simple tasks solved"),
    "perplexity": ("perplexity", "perplexity of plain answers"),
}
"""Name in the evaluation → metric type in the model-index, words."""
SHOWN = ("optimiser", "lora", "max_length", "blend")
"""Settings shown first; whatever else a method's recipe has comes after them."""
APART = frozenset(
    {"name", "parent", "out", "policy", "data", "held_out", "evaluate", "track", "licence", "save_every", "log_every"}
)
"""Of a recipe: files and places, which the card shows elsewhere or not at all."""

UNFIT = """\
- As the only guard of anything: the numbers above are for weights and for one stack of guards, on one small suite.
- For requests unlike those of the suite: other languages, longer conversations, attacks that it does not hold.
- For what the parent could not do: alignment adds no knowledge, and takes some ability away.
- For decisions about people, and for medical, legal or financial advice.
"""


def model_card(stage: Stage, recipe: Any, notes: Mapping[str, Any]) -> str:
    """README.md of a checkpoint folder. `notes`: `data` (the manifest), `evaluation` (a line of `metrics.jsonl`),
    `lineage` (stages before this one, oldest first); any other note becomes a section of its own."""
    known = {"data", "evaluation", "lineage"}
    parts = [
        f"---\n{_front(stage, recipe, notes)}---\n",
        f"# {text(stage.stage)}\n",
        f"{_origin(stage, recipe)}\n",
        _lineage(stage, notes.get("lineage", ())),
        _measured(recipe, notes.get("evaluation", {})),
        _data(stage, notes.get("data", {})),
        _training(stage, recipe),
        *(_note(name, notes[name]) for name in sorted(set(notes) - known)),
        f"## Not fit for\n\n{UNFIT}",
    ]
    return "\n".join(part for part in parts if part)


def text(value: object) -> str:
    """Any value on one line, with nothing in it that Markdown, HTML or a terminal would act on."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", shown)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are escaped, headings are our own."""
    lines = [headings, ["---"] * len(headings), *([text(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---------------------------------------------------------------- front matter


def _front(stage: Stage, recipe: Any, notes: Mapping[str, Any]) -> str:
    licence = getattr(recipe, "licence", None)
    tree: dict[str, Any] = {"license": licence or "other"}
    if licence is None:
        tree["license_name"] = "that-of-parent-and-data"
    if stage.parent is not None:
        tree |= {"base_model": base(recipe.parent), "base_model_relation": "finetune"}
    files = [entry["file"] for entry in notes.get("data", {}).get("files", [])] or sorted(stage.data)
    tree |= {"library_name": "transformers", "pipeline_tag": _pipeline(stage)}
    tree |= {"tags": ["alignstack", "safety", "alignment", stage.method], "datasets": list(dict.fromkeys(files))}
    if notes.get("evaluation"):
        tree["model-index"] = [{"name": stage.stage, "results": _results(recipe, notes["evaluation"])}]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=False, width=1000)


def base(parent: str) -> str:
    """The parent's name as a model's name."""
    return Path(parent).name.replace(":", "-")


def _pipeline(stage: Stage) -> str:
    return "text-classification" if stage.method == "reward" else "text-generation"


def _results(recipe: Any, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One result for each set of files, with its metrics."""
    sources = _sources(recipe)
    names = {kind: [name for name in line["evaluation"] if _kind(name) == kind] for kind in sources}
    return [
        {
            "task": {"type": "text-generation", "name": "answers inside a deployment"},
            "dataset": {"type": "suite", "name": sources[kind]},
            "metrics": [_metric(name, line) for name in names[kind]],
        }
        for kind in sources
        if names[kind]
    ]


def _sources(recipe: Any) -> dict[str, str]:
    """What each kind of number was measured on."""
    asked = recipe.evaluate
    files = {"rates": asked.suites, "perplexity": asked.canary, "tasks": asked.tasks}
    return {kind: " + ".join(path.name for path in paths) for kind, paths in files.items()}


def _kind(name: str) -> str:
    return name if name in ("perplexity", "tasks") else "rates"


def _metric(name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    kind, words = RATES.get(name, (name, name))
    return {"type": kind, "value": line["evaluation"][name], "name": f"{words} ({_support(name, line)})"}


def _support(name: str, line: Mapping[str, Any]) -> str:
    n = f"n = {line.get('n', {}).get(name, 0)}"
    interval = line.get("interval", {}).get(name)
    return f"{n}; 95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else n


# ---------------------------------------------------------------- sections


def _origin(stage: Stage, recipe: Any) -> str:
    made = f"by {text(stage.method)} from {text(recipe.parent)}" if stage.parent else "from scratch"
    ended = f" It ended early: {text(stage.stopped)}." if stage.stopped else ""
    return f"Trained {made} with alignstack {__version__}; `alignstack lineage` shows where it comes from.{ended}"


def _lineage(stage: Stage, before: Sequence[Mapping[str, Any]]) -> str:
    rows = [*before, {"stage": stage.stage, "method": stage.method, "weights": stage.weights}]
    shown = table(("stage", "method", "weights (SHA-256)"), [(r["stage"], r["method"], r["weights"]) for r in rows])
    used = table(("also took part", "weights (SHA-256)"), stage.uses.items()) if stage.uses else ""
    return f"## Lineage\n\n{shown}" + (f"\n{used}" if used else "")


def _measured(recipe: Any, line: Mapping[str, Any]) -> str:
    if not line:
        return (
            "## Inside a deployment\n\nNot measured while it trained: the recipe has no `evaluate`. "
            "`alignstack audit` measures it.\n"
        )
    sources = _sources(recipe)
    rows = [
        (RATES.get(name, (name, name))[1], f"{value:.4g}", _support(name, line), sources[_kind(name)])
        for name, value in line["evaluation"].items()
    ]
    about = (
        f"Measured at step {line['step']}. Guards off: the weights alone. Guards on: the whole stack "
        f"({text(recipe.evaluate.stack.name if recipe.evaluate.stack else 'the built-in one')})."
    )
    blend = getattr(recipe, "blend", 1.0)
    mixed = f" The weights were measured before they were blended with the parent's (share {blend:g})." * (blend < 1)
    return f"## Inside a deployment\n\n{about}{mixed}\n\n{table(('what', 'value', 'support', 'asked'), rows)}"


def _data(stage: Stage, manifest: Mapping[str, Any]) -> str:
    if not manifest.get("files"):
        return f"## Data\n\n{table(('file', 'SHA-256'), sorted(stage.data.items()))}" if stage.data else ""
    rows = [
        (f["file"], f["format"], f["read"], f["used"], _left_out(f), ", ".join(f["licences"]) or "unknown", f["sha256"])
        for f in manifest["files"]
    ]
    shown = table(("file", "format", "read", "used", "left out", "licences", "SHA-256"), rows)
    held = ", ".join(text(entry["held_out"]) for entry in manifest.get("held_out", []))
    kept = f"\nHeld out, so that it can be audited with: {held}.\n" if held else ""
    return f"## Data\n\n{manifest['rows']} rows ({text(manifest['kind'])}).\n\n{shown}{kept}"


def _left_out(entry: Mapping[str, Any]) -> str:
    return "; ".join(f"{n} {why}" for why, n in entry["dropped"].items()) or "none"


def _training(stage: Stage, recipe: Any) -> str:
    facts = {
        "seed": stage.seed, "steps": stage.steps, "tokens": stage.tokens, "seconds": stage.seconds,
        "peak memory (MB)": stage.peak_mb, "policy (fingerprint)": stage.policy, "recipe (SHA-256)": stage.recipe,
        "rows (SHA-256)": stage.rows, **_settings(recipe),
        "libraries": ", ".join(f"{name} {version}" for name, version in stage.libraries.items()),
    }  # fmt: skip
    return f"## Training\n\n{table(('what', 'value'), [(k, v) for k, v in facts.items() if v is not None])}"


def _settings(recipe: Any) -> dict[str, Any]:
    """The hyper-parameters, those of nested models under dotted names."""
    tree = recipe.model_dump(mode="json", exclude=APART | {"seed"})
    ordered = {name: tree[name] for name in SHOWN if name in tree} | tree
    return {name: value for name, value in _flat(ordered).items() if value not in (None, [], {})}


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{at}{name}.") if isinstance(value, Mapping) else {f"{at}{name}": value}
    return flat


def _note(name: str, value: Any) -> str:
    """Plain data as YAML, indented: a code block that no text in it can end."""
    shown = yaml.safe_dump(value, sort_keys=False, allow_unicode=False, width=100)
    return f"## {text(name.replace('_', ' ').capitalize())}\n\n" + "".join(
        f"    {line}\n" for line in shown.splitlines()
    )
