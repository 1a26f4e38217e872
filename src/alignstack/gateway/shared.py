"""What gateway processes share about limits: a Redis or Valkey server."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from alignstack.core.errors import ConfigError, Problem
from alignstack.gateway.call import Refused

CONNECTIONS = 256
"""Of one process; a request that finds all of them busy waits. A script takes about 0.1 ms, but the answer is read when
the event loop comes round: with 32, and 1,000 clients on a saturated core, requests waited for longer than `WAIT`."""

WAIT = 2.0
"""Seconds that a request waits for the server before it is refused; chosen by hand."""

log = logging.getLogger(__name__)


class Script(Protocol):
    """A Lua script on the server, which runs it as one step."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | float]) -> Any: ...


class Shared:
    """One process's connections to the server. They are opened when they are first needed."""

    def __init__(self, address: str) -> None:
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.exceptions import RedisError
        except ImportError:
            what = "needs the package redis: `pip install 'alignstack[redis]'`"
            raise ConfigError([Problem(where="serve.storage", what=what)]) from None
        self._errors = (RedisError, OSError, TimeoutError)
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                address,
                max_connections=CONNECTIONS,
                timeout=WAIT,
                socket_timeout=WAIT,
                socket_connect_timeout=WAIT,
                decode_responses=True,
            )
        )
        self._down = False

    def script(self, text: str) -> Script:
        """Running it raises Refused (503) when the server does not answer: a limit that cannot be counted is not
        taken for kept."""
        registered: Script = self._redis.register_script(text)

        async def run(keys: Sequence[str], args: Sequence[str | float]) -> Any:
            try:
                result = await registered(keys, args)
            except self._errors as error:
                raise self._refused(error) from None
            self._down = False
            return result

        return run

    def _refused(self, error: Exception) -> Refused:
        """Said once in the log, not for every request. The error's text may hold the address, so only its kind is."""
        if not self._down:
            log.error("serve.storage does not answer (%s): requests are refused with 503", type(error).__name__)
        self._down = True
        message = "The gateway cannot count requests at the moment. Try again."
        headers = {"retry-after": "1"}
        return Refused(503, message, kind="server_error", code="limits_unavailable", headers=headers)

    async def close(self) -> None:
        await self._redis.aclose()


def connect(storage: str) -> Shared | None:
    """For `serve.storage`; None where every process counts for itself. Raises ConfigError when the package redis is
    not installed."""
    return None if storage == "memory://" else Shared(storage)
