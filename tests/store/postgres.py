"""A PostgreSQL server of the tests' own, where its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "open-sesame"


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    return next((folder for folder in [*debian, *([Path(found).parent] if found else [])] if usable(folder)), None)


def usable(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres"))


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of a new server that listens on a socket in a temporary folder alone."""
    with tempfile.TemporaryDirectory(prefix="pg-") as short:  # paths of sockets have at most 107 characters
        home = Path(short)
        (home / "password").write_text(PASSWORD)
        as_server(home, "initdb", "-U", "tester", "--auth=scram-sha-256", f"--pwfile={home}/password", "--no-sync",
                  "-D", f"{home}/data", folder=folder)  # fmt: skip
        settings = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off -c shared_buffers=16MB"
        as_server(home, "pg_ctl", "-w", "-D", f"{home}/data", "-l", f"{home}/log", "-o", settings, "start",
                  folder=folder)  # fmt: skip
        try:
            yield f"postgresql://tester:{PASSWORD}@/postgres?host={home}"
        finally:
            as_server(home, "pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop", folder=folder)


def as_server(home: Path, program: str, *arguments: str, folder: Path) -> None:
    """The server refuses to run as root."""
    other = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    if other:
        for path in (home, home / "password"):
            os.chown(path, other.pw_uid, other.pw_gid)
    subprocess.run(
        [folder / program, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
        **({"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []} if other else {}),
    )  # fmt: skip
