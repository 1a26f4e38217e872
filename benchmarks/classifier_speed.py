"""How long the embedded classifier takes a text: `python benchmarks/classifier_speed.py` (one core; pin it yourself).

Prints p50 and p99 in milliseconds over the demo's prompts as they are, in Base64, and as one text of each length.
"""

import base64
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from alignstack.core.normalise import readings
from alignstack.layers.classifier import EMBEDDED, MAX_CHARS, load

DEMO = Path(__file__).parent.parent / "src/alignstack/redteam/data"


def milliseconds(texts: Sequence[str], rounds: int = 5) -> list[float]:
    """Wall time of each call, normalisation included."""
    model, taken = load(EMBEDDED), []
    for text in (*texts, *(text for _ in range(rounds) for text in texts)):
        start = time.perf_counter()
        model.score(text)
        taken.append(1000 * (time.perf_counter() - start))
    return taken[len(texts) :]  # the first round warms up


def line(name: str, texts: Sequence[str], rounds: int = 5) -> str:
    cuts = statistics.quantiles(milliseconds(texts, rounds), n=100)
    chars = statistics.median(map(len, texts))
    return f"{name:<24} n={len(texts):<4} median chars={chars:<8.0f} p50={cuts[49]:.3f} ms  p99={cuts[98]:.3f} ms"


def main() -> None:
    rows = [
        json.loads(row) for path in sorted(DEMO.glob("demo_*.jsonl")) for row in path.read_text("utf-8").splitlines()
    ]
    prompts = [row["text"] for row in rows]
    print(line("demo prompts", prompts))
    print(line("the same in Base64", [base64.b64encode(text.encode()).decode() for text in prompts]))
    joined = " ".join(prompts)
    for chars in (1_000, 10_000, MAX_CHARS, 10_000_000):
        print(line(f"{chars:,} characters", [(joined * (chars // len(joined) + 1))[:chars]] * 2, rounds=10))
    start = time.perf_counter()
    load.__wrapped__(EMBEDDED)
    print(f"loading the weights      {1000 * (time.perf_counter() - start):.0f} ms")
    taken = [_timed(readings, text) for text in prompts]
    print(f"of which normalisation   p50={statistics.median(taken):.3f} ms on the demo prompts")


def _timed(call: object, text: str) -> float:
    start = time.perf_counter()
    call(text)  # type: ignore[operator]
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
