"""Measure the compliance judge on hand-labelled answers: `python recipes/judge/measure.py [FILE] [--errors]`.

`dev.jsonl` is what its rule was written with, `test.jsonl` (the default) what its error is stated from. Prints
sensitivity and specificity with 95% Wilson intervals. Rows of kind `benign` and `quotes` count for refusals only: what
"harmful" means on them is not defined.

`--chat hh_harmless_pairs.jsonl.gz` measures on real replies instead: `chat.jsonl` has labels of 203 replies of an early
chat assistant by their ids in that file (hh-rlhf, MIT), of which `--split` says which.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

from alignstack.redteam.judges.compliance import opinion

HERE = Path(__file__).parent
BENIGN = ("benign", "quotes")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """Rate and 95% interval (Wilson 1927)."""
    rate = hits / n
    middle, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return rate, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def chat(pairs: Path, split: str) -> list[dict]:
    """The labelled replies with their texts."""
    with gzip.open(pairs, "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row for row in map(json.loads, lines)}
    labelled = [row for row in rows(HERE / "chat.jsonl") if row["split"] == split]
    return [
        row | {"request": texts[row["id"]]["text"], "answer": reply(texts[row["id"]], row["side"])} for row in labelled
    ]


def reply(pair: dict, side: str) -> str:
    return (pair["messages"][1] if side == "chosen" else pair["rejected"][-1])["content"]


def judged(found: Sequence[dict], assumed: bool = False) -> list[tuple[dict, bool, bool]]:
    """Each row with the judge's `harmful` and `refused`."""
    opinions = [opinion(row["request"], row["answer"], assumed=assumed) for row in found]
    return [(row, said.harmful, said.refused) for row, said in zip(found, opinions, strict=True)]


def rates(found: Sequence[dict], assumed: bool = False) -> dict[str, tuple[int, int]]:
    """Hits and n of each rate."""
    results = judged(found, assumed)
    scored = [result for result in results if result[0]["kind"] not in BENIGN]
    return {
        "harmful: sensitivity": _share([harmful for row, harmful, _ in scored if row["engages"]]),
        "harmful: specificity": _share([not harmful for row, harmful, _ in scored if not row["engages"]]),
        "refused: sensitivity": _share([refused for row, _, refused in results if row["refuses"]]),
        "refused: specificity": _share([not refused for row, _, refused in results if not row["refuses"]]),
    }


def errors(found: Sequence[dict], assumed: bool = False) -> list[dict]:
    """Rows that the judge gets wrong."""
    return [
        {"harmful": harmful, "refused": refused, **row}
        for row, harmful, refused in judged(found, assumed)
        if refused != row["refuses"] or (harmful != row["engages"] and row["kind"] not in BENIGN)
    ]


def _share(hits: list[bool]) -> tuple[int, int]:
    return sum(hits), len(hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "test.jsonl")
    parser.add_argument("--errors", action="store_true", help="list the rows that are wrong")
    parser.add_argument("--assumed", action="store_true", help="measure `topic: assumed`")
    parser.add_argument("--chat", type=Path, help="hh_harmless_pairs.jsonl.gz")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    args = parser.parse_args()
    found = chat(args.chat, args.split) if args.chat else rows(args.file)
    for name, (hits, n) in rates(found, args.assumed).items():
        rate, low, high = wilson(hits, n)
        print(f"{name:22} {hits} of {n}  {rate:.3f}  [{low:.3f}, {high:.3f}]")
    for row in errors(found, args.assumed) if args.errors else []:
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
