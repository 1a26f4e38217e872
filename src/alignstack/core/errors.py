"""Everything that can go wrong, as one tree.

AlignstackError
├── ConfigError          bad use or bad configuration: exit code 2; carries every problem found, not the first
├── DataError            a file that cannot be used (missing, not UTF-8, empty suite …): exit code 2
├── NotFound             a name that is not there (trace, layer, run), with the nearest one: exit code 2
└── Unavailable          something outside did not answer: exit code 3
    └── ModelUnavailable a model server hung, refused, sent garbage or dropped the stream

Messages name the thing with `!r` and the way out. They never hold a secret.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 50
"""Bad lines of data files listed before the rest are only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a file the user wrote."""

    where: str
    """File and line or YAML path, for example `stack.yaml: layers[2].threshold`."""
    what: str
    """What is wrong, and the nearest valid name where there is one."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class AlignstackError(Exception):
    """The root; `exit_code` is what the command line returns."""

    exit_code = 3


class ConfigError(AlignstackError):
    """All the problems of one configuration at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(AlignstackError):
    """A data file that cannot be used; the message says which line and why."""

    exit_code = 2


def complain(problems: Sequence[str]) -> None:
    """Raises DataError with the first bad lines of data files, and the number of the others; nothing without any."""
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError("\n".join([*problems[:SHOWN], *more]))


class NotFound(AlignstackError):
    """A name that does not exist."""

    exit_code = 2

    def __init__(self, kind: str, name: str, valid: Iterable[str] = ()) -> None:
        super().__init__(f"no {kind} {name!r}{nearest(name, valid)}")


class Unavailable(AlignstackError):
    """Something outside this process did not do its part."""


class ModelUnavailable(Unavailable):
    """A model server hung, refused, sent garbage or dropped the stream."""

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that the server answered with; 504 when it did not answer in time; 0 for anything else."""
        self.retry_after = retry_after
        """Seconds, when the server said."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint that ends an error about a wrong name: the closest valid one, or all of them when they are few."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}" if 0 < len(names) <= 12 else ""
