import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training import formats
from alignstack.training.formats import Skip, Wrong, alpaca

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(TEXT, st.none() | st.just("") | TEXT, TEXT)
def test_input_stands_under_the_instruction(instruction: str, given_text: str | None, output: str) -> None:
    row = {"instruction": instruction, "input": given_text, "output": output}
    assert formats.detect(row) == "alpaca"
    (example,) = alpaca.examples(row, "sft")
    assert example.prompt[0]["content"] == (f"{instruction}\n\n{given_text}" if given_text else instruction)
    assert example.good == output


def test_row_without_output_is_skipped_and_input_is_text() -> None:
    with pytest.raises(Skip, match="empty"):
        alpaca.examples({"instruction": "Add.", "output": ""}, "sft")
    with pytest.raises(Wrong, match="'input' must be a text"):
        alpaca.examples({"instruction": "Add.", "input": 3, "output": "4"}, "sft")
