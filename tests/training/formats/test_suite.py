import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignstack.training import formats
from alignstack.training.formats import Wrong, suite

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@given(TEXT, st.sampled_from(["harmful", "benign"]), st.none() | st.sampled_from(["ncr", "vcr"]), st.booleans())
def test_rows_of_an_audit_are_requests(text: str, label: str, hazard: str | None, listed: bool) -> None:
    asked = {"messages": [{"role": "user", "content": text}]} if listed else {"text": text}
    row = {"id": "1", "label": label, "hazard": hazard, "licence": "MIT", **asked}
    assert formats.detect(row) == "suite"
    (example,) = suite.examples(row, "prompts")
    assert (example.prompt[-1]["content"], example.side, example.hazard) == (text, label, hazard)
    assert (example.good, example.bad, example.licence) == (None, None, "MIT")


def test_chat_with_a_label_is_a_chat() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": said, "label": "benign"}
    assert formats.detect(row) == "trl"
    assert formats.FORMATS["trl"].examples(row, "sft")[0].side == "benign"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a", "label": "harmfull"}, "did you mean 'harmful'"),
        ({"text": "a"}, "has no 'label'"),
        ({"label": "benign"}, "needs one of"),
        ({"text": "", "label": "benign"}, "is empty"),
        ({"text": "a", "label": "benign", "hazard": 3}, "'hazard' must be a text"),
    ],
)
def test_what_is_wrong_is_said(row: dict, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        suite.examples(row, "prompts")
