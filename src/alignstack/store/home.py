"""Where alignstack keeps what outlives a command."""

import os
from pathlib import Path

from platformdirs import user_data_path

from alignstack.core.errors import DataError


def home() -> Path:
    """`$ALIGNSTACK_HOME`, or the platform's data directory; made, for its owner only, if it is not there. Raises
    DataError."""
    given = os.environ.get("ALIGNSTACK_HOME", "")
    folder = Path(given).expanduser().absolute() if given else user_data_path("alignstack")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # others on the machine have no business with traces
    except OSError as error:
        raise DataError(
            f"cannot keep traces in {str(folder)!r} ({error.strerror}); set ALIGNSTACK_HOME to another folder"
        ) from None
    return folder


def database() -> Path:
    """The one sqlite file of this machine: traces, and where audits were written."""
    return home() / "alignstack.db"
