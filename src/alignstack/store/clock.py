"""The clock of this machine."""

import time


class SystemClock:
    """The Clock port."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def tick(self) -> float:
        """Monotonic seconds, for durations."""
        return time.perf_counter()
