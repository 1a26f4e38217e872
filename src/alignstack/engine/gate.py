"""The token gate: which text of a stream may leave. A pure state machine, without clocks or tasks.

Text is offered in pieces. A piece leaves once every holder has cleared all of its tokens; a cut stops everything that
has not left. Holders are the enforcing output layers, and whoever else must have decided first.
"""

from collections import deque
from collections.abc import Iterable


class Gate:
    """Without holders text leaves as it is offered."""

    def __init__(self, holders: Iterable[str] = ()) -> None:
        self._cleared = dict.fromkeys(holders, 0)
        self._held: deque[tuple[int, str]] = deque()
        self.offered = 0
        """Tokens."""
        self.released = 0
        """Tokens that have left."""
        self.is_cut = False

    def offer(self, text: str, tokens: int = 1) -> None:
        """The next piece. After a cut it is dropped."""
        if tokens < 1:
            raise ValueError(f"a piece has at least one token, not {tokens}")
        self.offered += tokens
        if not self.is_cut:
            self._held.append((self.offered, text))

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

    def take(self) -> str:
        """The text that may leave now and has not left yet."""
        leaving: list[str] = []
        limit = self.limit
        while self._held and self._held[0][0] <= limit:
            self.released, text = self._held.popleft()
            leaving.append(text)
        return "".join(leaving)
