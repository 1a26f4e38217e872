"""One generation: pieces as they come, and afterwards how it ended. A model that fails ends `unavailable`; nothing
is raised.

Positions in a draft are counted in tokens as the model client reports them. A client that sends several tokens in one
piece makes them one indivisible step: none of them can leave before the others.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from alignstack.core.errors import AlignstackError, ModelUnavailable
from alignstack.core.events import ModelEvent
from alignstack.core.grid import Draft
from alignstack.core.messages import Conversation, digest
from alignstack.core.ports import Clock, Delta, Finish, ModelClient, Sampling
from alignstack.engine.memo import Memo

Ending = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "unavailable"]


class Generation:
    """One call of a model client. Iterate `deltas()` once; the other fields describe what has come so far. With `whole`
    a client that has an `answer` method (like `stream`, in as few pieces as it likes) is asked for that."""

    def __init__(
        self,
        client: ModelClient,
        messages: Conversation,
        sampling: Sampling,
        clock: Clock,
        *,
        whole: bool = False,
        input_sha256: str = "",
    ) -> None:
        """`input_sha256`: the digest of `messages`, where the caller has it already."""
        self.client = client
        self.messages = messages
        self._input_sha256 = input_sha256
        self.sampling = sampling
        self.ending: Ending = "cancelled"
        self.message = ""
        self.ends: list[int] = []
        """Characters of the draft after each token."""
        self.pieces: list[Delta] = []
        self._ask = (getattr(client, "answer", None) if whole else None) or client.stream
        self._joined = ""
        self._unjoined: list[str] = []
        self._chars = 0
        self._status = 0
        self._retry_after: float | None = None
        self._finish = Finish(reason="stop")
        self._clock = clock
        self._started = clock.tick()
        self._seconds: float | None = None

    @property
    def text(self) -> str:
        """All that layers read of the answer so far."""
        if self._unjoined:
            self._joined += "".join(self._unjoined)
            self._unjoined.clear()
        return self._joined

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Pieces that say something. Closing this iterator closes the client's stream."""
        stream = None
        try:
            stream = self._ask(self.messages, self.sampling)
            async for item in stream:
                if isinstance(item, Finish):
                    self._finish, self.ending = item, item.reason
                    return
                if item.text or item.name or item.call_id:
                    self._take(item)
                    yield item
            self._fail("the stream ended early")
        except AlignstackError as error:
            self._fail(str(error))
            if isinstance(error, ModelUnavailable):
                self._status, self._retry_after = error.status, error.retry_after
        except Exception as error:  # a client with a bug is a model that is not there
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._seconds = self._clock.tick() - self._started
            await close(stream)

    def _take(self, delta: Delta) -> None:
        if delta.tokens > 1:
            self.ends += [self._chars] * (delta.tokens - 1)
        read = delta.read if delta.name else delta.text
        self._chars += len(read)
        self.ends.append(self._chars)
        self._unjoined.append(read)
        self.pieces.append(delta)

    def _fail(self, message: str) -> None:
        self.ending, self.message = "unavailable", message[:500]

    def event(self) -> ModelEvent:
        return ModelEvent(
            model=self.client.name,
            version=self.client.version,
            input_sha256=self._input_sha256 or digest(self.messages),
            messages=self.messages,
            text=self.text,
            finish=self.ending,
            refused=any(piece.kind == "refusal" for piece in self.pieces),
            message=self.message,
            status=self._status,
            retry_after=self._retry_after,
            answered=self._finish.model,
            usage=self._finish.more,
            input_tokens=self._finish.input_tokens,
            output_tokens=self._finish.output_tokens or len(self.ends),
            truncated=self._finish.truncated,
            seed=self.sampling.seed or 0,
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


RAMP = 4
"""The looks at a stream are 1, then 4, then 16 … tokens apart until they are a window apart, so that a client sees the
first words soon although the window is wide; chosen by hand."""


def gap(looks: int, window: int) -> int:
    """Tokens between the last of so many looks and the next one."""
    return min(window, int(RAMP ** min(looks, 16)))


def positions(ends: Sequence[int], window: int) -> list[int]:
    """Token counts at which output layers look at a draft of `len(ends)` tokens before its end: the first end of a
    piece at least `gap` tokens after the look before. The end is not among them: that is the final look."""
    found: list[int] = []
    for n in range(1, len(ends)):
        due = (found[-1] if found else 0) + gap(len(found), window)
        if n >= due and ends[n - 1] > (ends[n - 2] if n > 1 else 0):
            found.append(n)
    return found
