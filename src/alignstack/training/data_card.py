"""The card of a set of rows in Hugging Face form: what they are, where they come from, what was left out."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from alignstack.training.card import table, text
from alignstack.training.stage import ROWS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LICENCES = {"apache-2.0", "mit", "cc0-1.0", "bsd-3-clause"}
"""Names that Hugging Face writes as we do, in small letters; those of Creative Commons too. Others are `other`."""
WORDS = {
    "sft": "Conversations; a model learns the assistant's turns.",
    "preference": "Pairs of answers to one request, the better one first.",
    "unpaired": "Answers, each marked as one to learn or one to avoid.",
    "prompts": "Requests without answers, each marked as harmful or benign.",
}


def data_card(manifest: Mapping[str, Any]) -> str:
    """README.md of a data folder that holds `rows.jsonl.gz`; `manifest` as `dataset.read_manifest` gives it."""
    sides = sum((Counter(entry["sides"]) for entry in manifest["files"]), Counter[str]())
    held = ", ".join(text(entry["held_out"]) for entry in manifest["held_out"])
    return (
        f"---\n{_front(manifest)}---\n\n# {manifest['rows']} rows\n\n{WORDS[manifest['kind']]} "
        f"Requests by side: {_counted(sides) or 'unknown'}. Harmful requests are here to be refused; do not show them "
        f"without need.\n\n## Files\n\n{_files(manifest)}\n"
        "Rows that repeat others, and near-duplicates of held-out prompts (Jaccard ≥ 0.5 on content words, or eight "
        f"words in a row), were left out. Held out: {held or 'nothing'}.\n"
    )


def _front(manifest: Mapping[str, Any]) -> str:
    licences = {_licence(name) for entry in manifest["files"] for name in entry["licences"] or ["unknown"]}
    tree = {
        "license": sorted(licences),
        "task_categories": ["text-generation"],
        "tags": ["alignment", manifest["kind"]],
        "size_categories": [next((name for n, name in SIZES if manifest["rows"] < n), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": ROWS}]}],
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _licence(name: str) -> str:
    low = name.lower()
    return low if low in LICENCES or low.startswith("cc-by") else "unknown" if low == "unknown" else "other"


def _files(manifest: Mapping[str, Any]) -> str:
    rows = [
        (f["file"], f["format"], f["read"], f["used"], _counted(f["dropped"]) or "none",
         ", ".join(f["licences"]) or "unknown", f["sha256"])
        for f in manifest["files"]
    ]  # fmt: skip
    return table(("file", "format", "read", "used", "left out", "licences", "SHA-256"), rows)


def _counted(found: Mapping[str, int]) -> str:
    return "; ".join(f"{n} {what}" for what, n in sorted(found.items()))
