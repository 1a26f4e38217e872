"""What Linux says about processes."""

import os
from collections.abc import Iterator
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
ESTABLISHED = "01"


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def rss(pid: int) -> float:
    """Megabytes of memory in use, less what is shared with files."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * PAGE / 1e6


def descriptors(pid: int) -> list[str]:
    """What each open file is."""
    return list(_links(pid))


def connections(pid: int) -> list[tuple[int, int]]:
    """Local and remote port of every connection that the process holds, also of one that the other side has closed."""
    mine = {link[8:-1] for link in _links(pid) if link.startswith("socket:[")}
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if inode in mine and remote != "00000000:0000":
            found.append((int(local[-4:], 16), int(remote[-4:], 16)))
    return found


def _links(pid: int) -> Iterator[str]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
