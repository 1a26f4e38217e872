"""One request down a stack, remembered, with what every layer did to it."""

import secrets
from dataclasses import asdict, dataclass
from typing import Any

from alignstack.core.errors import DataError
from alignstack.core.messages import user
from alignstack.core.ports import Clock, TraceStore
from alignstack.core.trace import Trace
from alignstack.engine.cascade import Step, cascade
from alignstack.engine.run import run
from alignstack.engine.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of it."""

    trace: Trace
    steps: list[Step]
    """One for each layer: what it did, and how the request ends without it and all before it."""

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        end = self.trace.outcome
        return {
            "trace": self.trace.id,
            "stack": self.trace.stack,
            "status": end.status if end else "unfinished",
            "reply": end.delivered if end else "",
            "steps": [asdict(step) for step in self.steps],
        }


async def ask(stack: Stack, text: str, *, clock: Clock, traces: TraceStore) -> Asked:
    """The production run, whose trace is kept, and the same request with layers off."""
    trace = await run(stack, user(text), clock=clock, trace_id=secrets.token_hex(8))
    traces.put(trace)
    return Asked(trace=trace, steps=await cascade(stack, user(text), clock=clock, trace=trace))


def decoded(raw: bytes) -> str:
    """A prompt from bytes. Raises DataError unless it is UTF-8 and says something."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the prompt is not UTF-8 (byte {error.start + 1}); convert it first") from None
    if not text.strip():
        raise DataError("the prompt is empty")
    return text
