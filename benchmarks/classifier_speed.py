"""How long the embedded classifier takes a text: `python benchmarks/classifier_speed.py` (one core; pin it yourself).

Prints p50 and p99 in milliseconds over the demo's prompts as they are, in Base64, and as one text of each length; then
what the layers keyword and classifier take together for a text, and for one look at a running stream.
"""

import asyncio
import base64
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from alignstack import policy
from alignstack.core.layer import View
from alignstack.core.messages import user
from alignstack.core.normalise import readings
from alignstack.layers.classifier import EMBEDDED, Classifier, ClassifierConfig, load
from alignstack.layers.keyword import Keyword, KeywordConfig

DEMO = Path(__file__).parent.parent / "src/alignstack/redteam/data"
WORDS = ("pipe bomb", "phishing mail", "credit card dump", "launder money", "fake passport")


def milliseconds(call: Callable[[str], object], texts: Sequence[str], rounds: int) -> list[float]:
    """Wall time of each call."""
    taken = []
    for text in (*texts, *(text for _ in range(rounds) for text in texts)):
        start = time.perf_counter()
        call(text)
        taken.append(1000 * (time.perf_counter() - start))
    return taken[len(texts) :]  # the first round warms up


def line(name: str, call: Callable[[str], object], texts: Sequence[str], rounds: int = 5) -> str:
    cuts = statistics.quantiles(milliseconds(call, texts, rounds), n=100)
    chars = statistics.median(map(len, texts))
    return f"{name:<26} n={len(texts):<4} median chars={chars:<8.0f} p50={cuts[49]:.3f} ms  p99={cuts[98]:.3f} ms"


async def layers(texts: dict[str, tuple[str, int]], rounds: int = 500) -> None:
    """Prints what both layers take: name → text and how much of it they have seen."""
    words = Keyword(KeywordConfig(patterns=WORDS), name="words", phase=None, hazards=None, policy=policy.load())
    scores = Classifier(ClassifierConfig(), name="scores", phase=None, hazards=None, policy=policy.load())
    for name, (text, seen) in texts.items():
        taken = []
        for _ in range(rounds):
            view = View(phase="output", messages=user("hi"), draft=text, final=not seen, seen=seen)
            start = time.perf_counter()
            await words.check(view)
            await scores.check(view)
            taken.append(1000 * (time.perf_counter() - start))
        print(f"both layers, {name:<31} p50={statistics.median(taken):.3f} ms")


def main() -> None:
    rows = [
        json.loads(row) for path in sorted(DEMO.glob("demo_*.jsonl")) for row in path.read_text("utf-8").splitlines()
    ]
    prompts = [row["text"] for row in rows]
    model = load(EMBEDDED)
    print(line("demo prompts", model.score, prompts))
    print(line("the same in Base64", model.score, [base64.b64encode(text.encode()).decode() for text in prompts]))
    print(line("of which normalisation", readings, prompts))
    joined = " ".join(prompts)
    for chars, rounds in ((90, 500), (690, 500), (4_000, 100), (60_000, 20), (10_000_000, 5)):
        text = (joined * (chars // len(joined) + 1))[:chars]
        print(line(f"{chars:,} characters", model.score, [text] * 2, rounds))
    looks = {
        "90 characters": (joined[:90], 0),
        "690 characters": (joined[:690], 0),
        "100 new ones of 4,000": (joined[:4_000], 3_900),
    }
    asyncio.run(layers(looks))
    start = time.perf_counter()
    load.__wrapped__(EMBEDDED)
    print(f"loading the weights {1000 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    main()
