"""The lines that the gateway writes to stderr: what an operator has to know. Requests are traces, not log lines."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal


class Lines(logging.Formatter):
    """One line each, whatever a message holds."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__})"
        return f"{_when(record)} {record.levelname.lower()} {json.dumps(text)[1:-1]}"


class Objects(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(form: Literal["text", "json"]) -> None:
    """For this process. Exceptions are named, not quoted: their texts and frames may hold what a client sent."""
    handler = logging.StreamHandler()
    handler.setFormatter(Objects() if form == "json" else Lines())
    for name in ("alignstack", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if name == "alignstack" else logging.WARNING)
        logger.propagate = False
