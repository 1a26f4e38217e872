"""The token gate: what of a stream may leave. A pure state machine, without clocks or tasks.

An answer is offered in pieces. A piece leaves once every holder has cleared all of its tokens; a cut stops what
has not left. Holders are the enforcing output layers, and whoever else must have decided first.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class Gate(Generic[Piece]):
    """Without holders pieces leave as they are offered."""

    def __init__(self, holders: Iterable[str] = ()) -> None:
        self._cleared = dict.fromkeys(holders, 0)
        self._held: deque[tuple[int, Piece]] = deque()
        self.offered = 0
        """Tokens."""
        self.released = 0
        """Tokens that have left."""
        self.is_cut = False

    def offer(self, piece: Piece, tokens: int = 1) -> None:
        """The next piece. After a cut it is dropped."""
        if tokens < 1:
            raise ValueError(f"a piece has at least one token, not {tokens}")
        self.offered += tokens
        if not self.is_cut:
            self._held.append((self.offered, piece))

    def clear(self, holder: str, tokens: int) -> None:
        """`holder` has seen the first `tokens` tokens and lets them go. What was cleared stays cleared. Raises
        KeyError for a stranger and ValueError for tokens that were never offered."""
        if tokens > self.offered:
            raise ValueError(f"{holder!r} cleared {tokens} tokens of {self.offered}")
        self._cleared[holder] = max(self._cleared[holder], tokens)

    def lift(self, holder: str) -> None:
        """`holder` has nothing more to say about this stream."""
        del self._cleared[holder]

    def cut(self) -> None:
        """Nothing more leaves."""
        self.is_cut = True
        self._held.clear()

    @property
    def limit(self) -> int:
        """Tokens that all holders have cleared."""
        return min(self._cleared.values(), default=self.offered)

    def take(self) -> list[Piece]:
        """What may leave now and has not left yet."""
        leaving: list[Piece] = []
        if not self._held:
            return leaving
        limit = self.limit
        while self._held and self._held[0][0] <= limit:
            self.released, piece = self._held.popleft()
            leaving.append(piece)
        return leaving
