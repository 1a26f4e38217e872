"""What the engine itself costs: layers that do nothing, a model that says fixed words.

    python benchmarks/engine_overhead.py

Prints microseconds per request, per streamed token and per evaluate-all item (one core, medians of 7 passes).
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from alignstack import policy
from alignstack.core.layer import LayerInfo, Phase, View
from alignstack.core.messages import Message, user
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.core.verdict import ALLOW, Verdict
from alignstack.engine.evaluate import evaluate
from alignstack.engine.memo import Memo
from alignstack.engine.run import run, stream
from alignstack.engine.stack import WEIGHTS, Placed, Stack, in_order
from alignstack.store.clock import SystemClock

PASSES = 7
WORDS = 128
CLOCK = SystemClock()


class Nothing:
    def __init__(self, name: str, phase: Phase) -> None:
        self.info = LayerInfo(name=name, use="nothing", phases=(phase,), kind="veto", version=name)

    async def check(self, view: View) -> Verdict:
        return ALLOW


class Prompt:
    info = LayerInfo(name="prompt", use="prompt", phases=("prompt",), kind="modifier", version="1")

    async def check(self, view: View) -> Verdict:
        return Verdict(action="modify", messages=(Message(role="system", content="be good"), *view.messages))


class Words:
    def __init__(self, version: str) -> None:
        self.name = self.version = version

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        for _ in range(WORDS):
            yield Delta(text="word ")
        yield Finish(reason="stop", output_tokens=WORDS)


def stack(vetoes: int, *, streaming: bool = False) -> Stack:
    """Half of the vetoes before the model, half after it, a prompt, and a reference checkpoint."""
    layers = [Nothing(f"l{i}", "request" if i % 2 else "output") for i in range(vetoes)]
    weights = LayerInfo(name=WEIGHTS, use="words", phases=("model",), kind="modifier", version="1", side="training")
    placed = [Placed(layer=layer, info=layer.info, timeout_s=30.0) for layer in (*layers, Prompt())]
    return Stack(
        layers=in_order(placed, Placed(layer=None, info=weights)),
        model=Words("model"),
        reference=Words("reference"),
        policy=policy.load(None),
        streaming=streaming,
    )


async def measure(name: str, work: Callable[[int], Awaitable[object]], *, rounds: int, per: float = 1.0) -> None:
    """Prints microseconds per unit; each round is given a number, so that no two have the same input."""
    taken = []
    for turn in range(PASSES):
        started = time.perf_counter()
        for number in range(rounds):
            await work(turn * rounds + number)
        taken.append((time.perf_counter() - started) / rounds / per * 1e6)
    print(f"{name:<58} {statistics.median(taken):9.1f} us   (min {min(taken):.1f}, max {max(taken):.1f})")


async def main() -> None:
    memo = Memo(limit=None)

    async def whole(built: Stack, number: int) -> object:
        return await run(built, user(f"hello {number}"), clock=CLOCK, trace_id="t")

    async def streamed(built: Stack, number: int) -> object:
        return [x async for x in stream(built, user(f"hello {number}"), clock=CLOCK, trace_id="t")]

    async def all_cells(built: Stack, number: int) -> object:
        return await evaluate(built, user(f"hello {number}"), clock=CLOCK, memo=memo)

    for vetoes in (0, 4, 10):
        built = stack(vetoes)
        await measure(f"run, {vetoes} vetoes, {WORDS} tokens: per request", lambda n, b=built: whole(b, n), rounds=100)
    for vetoes in (0, 4, 10):
        built = stack(vetoes, streaming=True)
        label = f"stream, {vetoes} vetoes, window 16: per token"
        await measure(label, lambda n, b=built: streamed(b, n), rounds=50, per=WORDS)
    for vetoes in (4, 10):
        built = stack(vetoes)
        label = f"evaluate-all, {vetoes} vetoes, 2 modifiers (4 cells): per item"
        await measure(label, lambda n, b=built: all_cells(b, n), rounds=50)


if __name__ == "__main__":
    asyncio.run(main())
