"""Work that no client waits for, such as asking every layer about a sample of live requests."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

AT_ONCE = 2
"""Pieces of work under way; more are dropped, since live requests come first. Chosen by hand."""

log = logging.getLogger("alignstack.gateway")


class Background:
    """Holds what it runs until it has ended. A failure is logged and goes no further."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, object], name: str) -> bool:
        """False when there is too much of it already."""
        if len(self._running) >= AT_ONCE:
            work.close()
            return False
        task = asyncio.ensure_future(self._run(work, name))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _run(self, work: Coroutine[Any, Any, object], name: str) -> None:
        try:
            await work
        except Exception as error:  # it has no client to tell
            log.warning("%s failed: %s", name, type(error).__name__)

    async def aclose(self, seconds: float) -> None:
        """Waits so long, then stops what still runs."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
