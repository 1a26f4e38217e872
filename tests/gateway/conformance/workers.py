"""Which processes serve, and what each of them has done: from the numbers that they share with Prometheus."""

import asyncio
from collections import Counter
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from tests.gateway.conformance.process import ENDS

LOOKS = 400


def pids(folder: Path) -> set[int]:
    """Of the workers of a gateway that was started with `TMPDIR=folder`."""
    return {_pid(file) for file in folder.glob("alignstack-metrics-*/counter_*.db")}


async def count(folder: Path, wanted: int, *, without: int = 0) -> set[int]:
    """Waits until there are so many workers, `without` (a process id) not among them."""
    for _ in range(LOOKS):
        if len(found := pids(folder) - {without}) == wanted:
            return found
        await asyncio.sleep(ENDS / LOOKS)
    raise AssertionError(f"{wanted} workers were wanted, not {pids(folder)}")


def requests(folder: Path) -> Counter[int]:
    """How many requests each worker has answered or turned away."""
    found: Counter[int] = Counter()
    for file in folder.glob("alignstack-metrics-*/counter_*.db"):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            if '"alignstack_requests_total"' in key or '"alignstack_rejected_total"' in key:
                found[_pid(file)] += int(value)
    return +found


def _pid(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])
