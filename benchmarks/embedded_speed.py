"""Tokens a second of the embedded model at batch 1, one core: `python benchmarks/embedded_speed.py`.

Pin it (`taskset -c 1 …` on Linux) on an otherwise idle machine. Prints one line a case: median, slowest and fastest.
"""

import asyncio
import statistics
import time

from alignstack import policy
from alignstack.core.messages import Message, user
from alignstack.core.ports import Finish, Sampling
from alignstack.models.embedded import Embedded
from alignstack.policy.render import system_prompt

ROUNDS = 15
SYSTEM = Message(role="system", content=system_prompt(policy.load(None)))
CASES = {
    "short prompt": user("How do I bake bread?"),
    "with the system prompt": (SYSTEM, *user("How do I bake bread?")),
    "300-word prompt": user("How do I bake bread? " * 60),
}


async def once(model: Embedded, messages: tuple[Message, ...]) -> float:
    """Output tokens a second, the prompt's own cost included. Hot sampling keeps answers from ending early."""
    started = time.perf_counter()
    stream = model.stream(messages, Sampling(temperature=3.0, seed=1, max_tokens=96))
    finish = [item async for item in stream][-1]
    assert isinstance(finish, Finish)
    return finish.output_tokens / (time.perf_counter() - started)


async def main() -> None:
    model = Embedded(Embedded.Config(checkpoint="helpful"))
    started = time.perf_counter()
    await once(model, CASES["short prompt"])
    print(f"first answer, loading included: {time.perf_counter() - started:.2f} s")
    for name, messages in CASES.items():
        rates = sorted([await once(model, messages) for _ in range(ROUNDS)])
        print(f"{name}: {statistics.median(rates):.0f} tokens/s ({rates[0]:.0f} to {rates[-1]:.0f}, n={ROUNDS})")


if __name__ == "__main__":
    asyncio.run(main())
