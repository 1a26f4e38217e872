"""One generation: pieces as they come, and afterwards how it ended. A model that fails ends `unavailable`; nothing
is raised.

Positions in a draft are counted in tokens as the model client reports them. A client that sends several tokens in one
piece makes them one indivisible step: none of them can leave before the others.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from alignstack.core.errors import AlignstackError
from alignstack.core.events import ModelEvent
from alignstack.core.grid import Draft
from alignstack.core.messages import Conversation, digest
from alignstack.core.ports import Clock, Delta, Finish, ModelClient, Sampling
from alignstack.engine.memo import Memo

Ending = Literal["stop", "length", "content_filter", "cancelled", "unavailable"]


class Generation:
    """One call of a model client. Iterate `deltas()` once; the other fields describe what has come so far."""

    def __init__(self, client: ModelClient, messages: Conversation, sampling: Sampling, clock: Clock) -> None:
        self.client = client
        self.messages = messages
        self.sampling = sampling
        self.ending: Ending = "cancelled"
        self.message = ""
        self.ends: list[int] = []
        self._pieces: list[str] = []
        self._chars = 0
        self._finish = Finish(reason="stop")
        self._clock = clock
        self._started = clock.tick()
        self._seconds: float | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Pieces that have text. Closing this iterator closes the client's stream."""
        stream = self.client.stream(self.messages, self.sampling)
        try:
            async for item in stream:
                if isinstance(item, Finish):
                    self._finish, self.ending = item, item.reason
                    return
                if item.text:
                    self._take(item)
                    yield item
            self._fail("the stream ended early")
        except AlignstackError as error:
            self._fail(str(error))
        except Exception as error:  # a client with a bug is a model that is not there
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._seconds = self._clock.tick() - self._started
            await close(stream)

    def _take(self, delta: Delta) -> None:
        inner = max(delta.tokens, 1) - 1
        self.ends += [self._chars] * inner
        self._chars += len(delta.text)
        self.ends.append(self._chars)
        self._pieces.append(delta.text)

    def _fail(self, message: str) -> None:
        self.ending, self.message = "unavailable", message[:500]

    def event(self) -> ModelEvent:
        return ModelEvent(
            model=self.client.name,
            version=self.client.version,
            input_sha256=digest(self.messages),
            messages=self.messages,
            text=self.text,
            finish=self.ending,
            message=self.message,
            input_tokens=self._finish.input_tokens,
            output_tokens=self._finish.output_tokens or len(self.ends),
            truncated=self._finish.truncated,
            seed=self.sampling.seed,
            seconds=self._clock.tick() - self._started if self._seconds is None else self._seconds,
            cost=self._finish.cost,
        )

    def draft(self) -> Draft:
        """The finished generation; what an unavailable model had said is dropped."""
        event = self.event()
        gone = event.finish in ("unavailable", "cancelled")
        return Draft(
            model=event.model,
            version=event.version,
            input_sha256=event.input_sha256,
            text="" if gone else event.text,
            finish="unavailable" if event.finish == "cancelled" else event.finish,
            message=event.message,
            ends=() if gone else tuple(self.ends),
            tokens=event.output_tokens,
            truncated=event.truncated,
            seconds=event.seconds,
            cost=event.cost,
        )


async def draft_of(client: ModelClient, messages: Conversation, sampling: Sampling, clock: Clock, memo: Memo) -> Draft:
    """A whole generation, had once for the same model, input and sampling; failures are not remembered."""

    async def make() -> Draft:
        generation = Generation(client, messages, sampling, clock)
        async for _ in generation.deltas():
            pass
        return generation.draft()

    key = (client.version, digest(messages), sampling)
    return await memo.get(key, make, keep=lambda draft: draft.finish != "unavailable")


async def close(stream: Any) -> None:
    """Stops an async iterator, where it can be stopped."""
    stop = getattr(stream, "aclose", None)
    if stop is not None:
        await stop()


def positions(ends: Sequence[int], window: int) -> list[int]:
    """Token counts at which output layers look at a draft of `len(ends)` tokens before its end: the first end of a
    piece at least `window` tokens after the look before. The end is not among them: that is the final look."""
    found: list[int] = []
    for n in range(1, len(ends)):
        if n - (found[-1] if found else 0) >= window and ends[n - 1] > (ends[n - 2] if n > 1 else 0):
            found.append(n)
    return found
