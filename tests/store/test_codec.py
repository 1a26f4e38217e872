import json

from pydantic import TypeAdapter

from alignstack.core.layer import Scope
from alignstack.store.codec import decode, encode

SCOPE = TypeAdapter(Scope)


def test_sets_are_written_in_order_so_that_equal_values_are_equal_bytes() -> None:
    names = [f"h{i}" for i in range(50)]
    scope = Scope(hazards=frozenset(reversed(names)))
    line = encode(SCOPE, scope)
    assert json.loads(line)["hazards"] == sorted(names)
    assert decode(SCOPE, line, "here") == scope
