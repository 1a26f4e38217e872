"""Content-addressed memory: the same question is not asked twice, not even at the same time.

Keys hold everything that decides the answer (layer version and view digest; model version, input digest and
sampling), so an entry never becomes wrong, only unneeded.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Memo:
    """Keeps the `limit` most recently used answers in memory; None keeps all. For one event loop."""

    def __init__(self, limit: int | None = 100_000) -> None:
        self.limit = limit
        self.hits = 0
        """Answers had for nothing: remembered, or shared with a call under way."""
        self.misses = 0
        """Calls really made."""
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    @property
    def size(self) -> int:
        """Answers remembered. (Not `len`: an empty memo must not be false.)"""
        return len(self._kept)

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]], *, keep: Callable[[T], bool] = lambda _: True
    ) -> T:
        """The answer under `key`, made by `make()` when nobody has it. Answers for which `keep` is false (faults) are
        shared by those who wait for them and then forgotten. A waiter that is cancelled does not cancel the call."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return cast(T, self._kept[key])
        if key in self._under_way:
            self.hits += 1
        else:
            self.misses += 1
            self._under_way[key] = asyncio.ensure_future(self._make(key, make(), keep))
        return cast(T, await asyncio.shield(self._under_way[key]))

    async def _make(self, key: Hashable, answer: Awaitable[T], keep: Callable[[T], bool]) -> T:
        try:
            value = await answer
        finally:
            del self._under_way[key]
        if keep(value):
            self._kept[key] = value
            if self.limit is not None and len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        return value
