"""Gateways on real ports in front of the upstream of these tests, and what their stores say of a request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from alignstack.core.trace import Trace
from alignstack.core.usage import Admitted, Settled
from tests.gateway.conformance.clients import Clients, clients
from tests.gateway.conformance.upstream import Upstream
from tests.gateway.running import Running, gateway

REFUSAL = "This deployment does not do that."

LAYERS = """
layers:
  - {use: keyword, name: in1, phase: request, patterns: [bomb]}
  - {use: keyword, name: in2, phase: request, patterns: [malware]}
  - {use: brittle, name: in_closed, phase: request, word: crash}
  - {use: brittle, name: in_open, phase: request, word: stumble, on_error: allow}
  - {use: system_prompt}
  - {use: keyword, name: out1, phase: output, patterns: [swordfish]}
  - {use: keyword, name: out2, phase: output, patterns: [nightjar]}
  - {use: brittle, name: out_closed, phase: output, word: snap}
  - {use: brittle, name: out_open, phase: output, word: bend, on_error: allow}
  - {use: keyword, name: watch, phase: output, patterns: [flour], mode: shadow}
"""
REQUEST = ("in1", "in2", "in_closed", "in_open")
OUTPUT = ("out1", "out2", "out_closed", "out_open", "watch")
NAMES = (*REQUEST, "system_prompt", *OUTPUT)


def stack(model: str, *more: str, seconds: float = 0.0) -> str:
    """The text of a stack file with all the layers above; those that may crash take so long for a look."""
    return "\n".join([f"model: {model}", f"refusal: {json.dumps(REFUSAL)}", "streaming: true", "window: 4",
                      *more, LAYERS.replace("use: brittle", f"use: brittle, seconds: {seconds}")])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A gateway, its clients, and the server behind it."""

    running: Running
    clients: Clients
    upstream: Upstream

    async def trace(self, trace_id: str) -> Trace:
        await self.running.services.writer.run(lambda connection: None)
        return self.running.services.traces.get(trace_id)

    async def ledger(self, trace_id: str) -> list[Admitted | Settled]:
        return [entry for entry in await self.running.ledger() if entry.id == trace_id]

    async def settled(self, trace_id: str) -> Settled:
        """The request was let in once and ended once, in that order."""
        admitted, settled = await self.ledger(trace_id)
        assert isinstance(admitted, Admitted) and isinstance(settled, Settled)
        return settled

    async def newest(self, trace_id: str) -> str:
        """`trace_id`, or that of the newest request, once the request has ended."""
        for _ in range(500):
            entries = await self.running.ledger()
            ended = [entry.id for entry in entries if isinstance(entry, Settled)]
            wanted = trace_id or entries[-1].id
            if wanted in ended:
                return wanted
            await asyncio.sleep(0.02)
        raise AssertionError("the request was never settled")


@asynccontextmanager
async def deployed(folder: Path, text: str, upstream: Upstream) -> AsyncIterator[Deployed]:
    """With stores of its own in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNSTACK_HOME", str(folder / "home"))
        async with gateway(folder, text) as running, clients(running.url) as made:
            yield Deployed(running=running, clients=made, upstream=upstream)
