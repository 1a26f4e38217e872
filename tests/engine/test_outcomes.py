"""A grid says of every subset of the layers what really running it gives."""

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.core.messages import user
from alignstack.engine.evaluate import evaluate
from alignstack.engine.outcomes import outcome
from alignstack.engine.stack import Stack
from tests.engine.parts import CLOCK, REFUSAL
from tests.engine.random_stacks import LETTERS, players, really, stacks


@settings(max_examples=120, deadline=None)
@given(built=stacks(), text=st.text(LETTERS, max_size=4))
async def test_grid_gives_what_running_every_subset_gives(built: Stack, text: str) -> None:
    grid = await evaluate(built, user(text), clock=CLOCK)
    everyone = frozenset(players(built))
    for size in range(len(everyone) + 1):
        for on in itertools.combinations(everyone, size):
            off = everyone - set(on)
            expected = outcome(grid, on, REFUSAL)
            received, trace = await really(built, text, off)
            assert (trace.outcome.status, trace.outcome.delivered) == (expected.status, expected.delivered)
            assert received == expected.delivered
            if built.streams(off) and expected.status in ("delivered", "cut"):
                assert trace.outcome.released_tokens == expected.released_tokens


@settings(max_examples=50, deadline=None)
@given(built=stacks(), text=st.text(LETTERS, max_size=4))
async def test_generations_never_exceed_distinct_model_inputs(built: Stack, text: str) -> None:
    clients = [replace(client, asked=[]) for client in (built.model, built.reference) if client]
    built = replace(built, model=clients[0], reference=clients[1] if len(clients) > 1 else None)
    grid = await evaluate(built, user(text), clock=CLOCK)
    for client in clients:
        assert len(client.asked) == len(set(client.asked))
    assert len(grid.cells) == 2 ** len(built.modifiers())
