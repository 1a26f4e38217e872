"""The token gate against a model of it that is too simple to be wrong."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alignstack.engine.gate import Gate

HOLDERS = ("a", "b", "c")


class GateMachine(RuleBasedStateMachine):
    """Any order of offers, clearances, lifts and a cut."""

    @initialize(holders=st.sets(st.sampled_from(HOLDERS)))
    def start(self, holders: set[str]) -> None:
        self.gate: Gate[str] = Gate(holders)
        self.cleared = dict.fromkeys(holders, 0)
        self.pieces: list[tuple[str, int]] = []
        self.left = ""
        self.left_at_cut: str | None = None

    @rule(text=st.text("xyz", min_size=1, max_size=3), tokens=st.integers(1, 3))
    def offer(self, text: str, tokens: int) -> None:
        self.gate.offer(text, tokens)
        self.pieces.append((text, tokens))

    @rule(holder=st.sampled_from(HOLDERS), share=st.floats(0, 1))
    def clear(self, holder: str, share: float) -> None:
        tokens = round(share * self.gate.offered)
        if holder in self.cleared:
            self.gate.clear(holder, tokens)
            self.cleared[holder] = max(self.cleared[holder], tokens)
        else:
            with pytest.raises(KeyError):
                self.gate.clear(holder, tokens)

    @rule(holder=st.sampled_from(HOLDERS))
    def lift(self, holder: str) -> None:
        if self.cleared.pop(holder, None) is not None:
            self.gate.lift(holder)

    @rule()
    def cut(self) -> None:
        self.gate.cut()
        self.left_at_cut = self.left if self.left_at_cut is None else self.left_at_cut

    @rule()
    def take(self) -> None:
        self.left += "".join(self.gate.take())

    def text(self, tokens: int) -> str:
        """The pieces that lie wholly within the first `tokens` tokens."""
        found, seen = "", 0
        for text, size in self.pieces:
            seen += size
            found += text if seen <= tokens else ""
        return found

    @invariant()
    def nothing_left_before_every_holder_cleared_it(self) -> None:
        assert self.text(min(self.cleared.values(), default=self.gate.offered)).startswith(self.left)

    @invariant()
    def what_left_is_the_beginning_of_what_was_offered(self) -> None:
        assert "".join(text for text, _ in self.pieces).startswith(self.left)
        assert self.text(self.gate.released) == self.left

    @invariant()
    def nothing_leaves_after_a_cut(self) -> None:
        assert self.left_at_cut is None or self.left == self.left_at_cut

    @invariant()
    def nothing_cleared_is_kept_back(self) -> None:
        if self.left_at_cut is None:
            self.take()
            assert self.left == self.text(min(self.cleared.values(), default=self.gate.offered))


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_clearing_what_was_never_offered_is_an_error() -> None:
    gate = Gate(["a"])
    gate.offer("x")
    with pytest.raises(ValueError, match="cleared 2 tokens of 1"):
        gate.clear("a", 2)


def test_a_piece_of_several_tokens_leaves_whole() -> None:
    gate = Gate(["a"])
    gate.offer("hello", 3)
    gate.clear("a", 2)
    assert gate.take() == []
    gate.clear("a", 3)
    assert gate.take() == ["hello"]
