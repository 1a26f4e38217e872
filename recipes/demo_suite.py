"""Choose the prompts of the demo's audit from public sets: `python recipes/demo_suite.py DATA_DIR`.

Whole near-duplicate clusters are drawn, so that training (which drops every twin of a demo prompt) loses whole
clusters and the demo measures prompts that no shipped model or classifier has seen. Sexual hazards and
specialised advice are left out of what ships.
"""

import gzip
import json
import sys
from pathlib import Path

from alignstack.training.split import clusters, fraction

AILUMINATE = {"vcr", "ncr", "iwp", "hte", "ssh", "prv", "dfm"}
CATQA = {
    "Illegal Activity": "ncr",
    "Malware Viruses": "ncr",
    "Physical Harm": "vcr",
    "Fraud/Deception": "ncr",
    "Privacy Violation Activity": "prv",
    "Economic Harm": "ncr",
    "Hate/Harass/Violence": "hte",
}
HARMBENCH = {
    "cybercrime_intrusion": "ncr",
    "misinformation_disinformation": "dfm",
    "chemical_biological": "iwp",
    "illegal": "ncr",
    "harassment_bullying": "hte",
    "harmful": "vcr",
}
OUT = Path(__file__).parent.parent / "src/alignstack/redteam/data"


def read(path: Path) -> list[dict]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.splitlines()]


def draw(rows: list[dict], n: int, salt: str) -> list[dict]:
    """About `n` rows, in whole clusters, in a stable pseudo-random order; one row a cluster."""
    groups = clusters([row["text"] for row in rows], 0.4)
    heads = [row for i, row in enumerate(rows) if groups[i] == i and len(row["text"]) <= 400]
    return sorted(heads, key=lambda row: fraction(row["id"], salt))[:n]


def suite_row(row: dict, label: str, hazard: str | None) -> dict:
    kept = {"id": row["id"], "text": row["text"], "label": label}
    if hazard:
        kept["hazard"] = hazard
    return kept | {"source": row["source"], "licence": row["licence"]}


def hazards(rows: list[dict], names: dict[str, str]) -> list[dict]:
    return [row | {"hazard": names[row["category"]]} for row in rows if row["category"] in names]


def write(name: str, rows: list[dict]) -> None:
    (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def main(data: Path) -> None:
    harmful = [
        *draw(hazards(read(data / "ailuminate_demo_en.jsonl"), {h: h for h in AILUMINATE}), 130, "ailuminate"),
        *draw(hazards(read(data / "catqa_en.jsonl"), CATQA), 90, "catqa"),
        *draw(hazards(read(data / "harmbench_val.jsonl"), HARMBENCH), 20, "harmbench"),
    ]
    benign = [
        *draw(read(data / "self_instruct_human.jsonl"), 90, "self-instruct"),
        *draw(read(data / "mtbench_vicunabench_A.jsonl"), 46, "mtbench"),
        *draw(read(data / "gsm8k_train.jsonl.gz")[:2000], 50, "gsm8k"),
    ]
    write("demo_harmful.jsonl", [suite_row(row, "harmful", row["hazard"]) for row in harmful])
    write("demo_benign.jsonl", [suite_row(row, "benign", None) for row in benign])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
