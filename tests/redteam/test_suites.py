import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard

from alignstack.core.errors import DataError
from alignstack.core.messages import Message
from alignstack.redteam import suites

GOOD = {"id": "a", "text": "hello", "label": "benign"}


def suite(tmp_path: Path, *rows: object, name: str = "suite.jsonl") -> Path:
    path = tmp_path / name
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_items_come_in_file_order_with_their_defaults(tmp_path: Path) -> None:
    [first, second] = suites.read(
        suite(tmp_path, GOOD, b"", {"id": "b", "text": "bad", "label": "harmful", "hazard": "ncr"})
    )
    assert (first.id, first.cluster, first.attack, first.hazard, first.plain) == ("a", "a", "none", None, "hello")
    assert (second.label, second.hazard) == ("harmful", "ncr")


def test_conversation_of_several_turns_keeps_them_and_is_judged_by_its_last(tmp_path: Path) -> None:
    turns = [
        {"role": r, "content": c} for r, c in (("system", "s"), ("user", "one"), ("assistant", "yes"), ("user", "two"))
    ]
    [item] = suites.read(suite(tmp_path, {"id": "m", "messages": turns, "label": "harmful"}))
    assert item.messages == tuple(Message(role=t["role"], content=t["content"]) for t in turns)  # type: ignore[arg-type]
    assert item.plain == "two"


def test_row_that_is_an_attack_already_says_so(tmp_path: Path) -> None:
    row = {
        "id": "b+x",
        "text": "aGk=",
        "label": "harmful",
        "cluster": "b",
        "attack": "x",
        "plain": "hi",
        "source": "ours",
    }
    [item] = suites.read(suite(tmp_path, row))
    assert (item.cluster, item.attack, item.plain) == ("b", "x", "hi")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_suites_read_like_plain_ones(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    plain = suite(tmp_path, GOOD)
    packed = tmp_path / ("s.jsonl.gz" if pack is gzip.compress else "s.jsonl.zst")
    packed.write_bytes(pack(plain.read_bytes()))
    assert suites.read(packed) == suites.read(plain)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b'{"id": "x", "text": "caf\xe9", "label": "benign"}', "is not UTF-8"),
        (b'{"id": "x", "text"', "is not JSON"),
        (b"[" * 100_000, "too deep"),
        (b'{"id": ' + b"9" * 5000 + b"}", "too long"),
        (["a"], "is not a JSON object"),
        ({"text": "hi", "label": "benign"}, "has no 'id'"),
        ({"id": "", "text": "hi", "label": "benign"}, "'id' must be"),
        ({"id": None, "text": "hi", "label": "benign"}, "'id' must be"),
        ({"id": "x", "label": "benign"}, "neither 'text' nor 'messages'"),
        ({"id": "x", "text": "hi", "messages": [], "label": "benign"}, "both 'text' and 'messages'"),
        ({"id": "x", "text": "  ", "label": "benign"}, "'text' is empty"),
        ({"id": "x", "text": 7, "label": "benign"}, "'text' must be a text"),
        ({"id": "x", "text": "hi"}, "has no 'label'"),
        ({"id": "x", "text": "hi", "label": "harmfull"}, "did you mean 'harmful'"),
        ({"id": "x", "text": "hi", "label": ["benign"]}, "'label' is"),
        ({"id": "x", "text": "hi", "label": "benign", "hazard": 3}, "'hazard' must be a text"),
        ({"id": "x", "text": "half \ud800", "label": "benign"}, "half a surrogate pair"),
        ({"id": "x", "messages": [], "label": "benign"}, "must be a list of turns"),
        (
            {"id": "x", "messages": [{"role": "bot", "content": "hi"}], "label": "benign"},
            "valid: system, user, assistant",
        ),
        ({"id": "x", "messages": [{"role": "assistant", "content": "hi"}], "label": "benign"}, "end with a user turn"),
        ({"id": "x", "messages": ["hi"], "label": "benign"}, "messages[0]"),
    ],
)
def test_bad_line_is_named_with_what_is_wrong(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        suites.read(suite(tmp_path, GOOD, row))
    assert "suite.jsonl:2: " in str(caught.value)
    assert said in str(caught.value)


def test_all_bad_lines_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        suites.read(suite(tmp_path, b"\xff", GOOD, b"{", {**GOOD, "text": "again"}, {"id": 1}))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rsplit(":")[-1] for line in lines] == ["1", "3", "4", "5"]
    assert "used in line 2" in lines[2]
    assert "has no 'label'" in lines[3] and "neither 'text'" in lines[3]


def test_thousand_bad_lines_are_cut_short_and_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"and 950 more"):
        suites.read(suite(tmp_path, *[b"x"] * 1000))


def test_empty_suite_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one harmful and one benign"):
        suites.read(suite(tmp_path, b"", b"   "))


def test_missing_suite_names_the_nearest_file(tmp_path: Path) -> None:
    suite(tmp_path, GOOD)
    with pytest.raises(DataError, match=r"did you mean 'suite\.jsonl'"):
        suites.read(tmp_path / "suit.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        suites.read(tmp_path)


@pytest.mark.parametrize("name", ["s.jsonl.gz", "s.jsonl.zst"])
def test_damaged_packed_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a whole"):
        suites.read(suite(tmp_path, GOOD, name=name))


def test_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}' * 500)[:-12])
    with pytest.raises(DataError, match="is not a whole"):
        suites.read(tmp_path / "s.jsonl.gz")


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_truncated_zst_is_an_error_and_not_fewer_items(tmp_path: Path, kept: float) -> None:
    rng = random.Random(0)
    rows = [{"id": str(n), "text": f"{rng.random()}" * 9, "label": "benign"} for n in range(5000)]
    whole = zstandard.compress(suite(tmp_path, *rows).read_bytes())
    (tmp_path / "s.jsonl.zst").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="is not a whole"):
        suites.read(tmp_path / "s.jsonl.zst")


def test_zst_frames_one_after_another_are_all_read(tmp_path: Path) -> None:
    one, two = suite(tmp_path, GOOD).read_bytes(), suite(tmp_path, GOOD | {"id": "second"}).read_bytes()
    (tmp_path / "s.jsonl.zst").write_bytes(zstandard.compress(one) + zstandard.compress(two))
    assert [item.id for item in suites.read(tmp_path / "s.jsonl.zst")] == [GOOD["id"], "second"]


def test_ids_shared_by_two_suites_are_an_error(tmp_path: Path) -> None:
    one, two = suite(tmp_path, GOOD, name="one.jsonl"), suite(tmp_path, GOOD, name="two.jsonl")
    with pytest.raises(DataError, match=r"two\.jsonl: id 'a' is also in .*one\.jsonl"):
        suites.read_all([one, two])


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps({**GOOD, "id": "b"}).encode() + b"\r\n"
    )
    assert [item.id for item in suites.read(path)] == ["a", "b"]


def test_limit_keeps_both_sides(tmp_path: Path) -> None:
    items = suites.read(
        suite(
            tmp_path,
            *({**GOOD, "id": f"{label}{n}", "label": label} for label in ("benign", "harmful") for n in range(5)),
        )
    )
    assert [item.id for item in suites.limit(items, 2)] == ["benign0", "benign1", "harmful0", "harmful1"]


def test_ten_megabyte_prompt_is_read(tmp_path: Path) -> None:
    [item] = suites.read(suite(tmp_path, {**GOOD, "text": "word " * 2_000_000}))
    assert len(item.plain) == 10_000_000


def test_manifest_row_changes_with_the_bytes(tmp_path: Path) -> None:
    one = suites.row(suite(tmp_path, GOOD))
    two = suites.row(suite(tmp_path, GOOD, {**GOOD, "id": "b"}))
    assert (one.file, one.n, two.n) == ("suite.jsonl", 1, 2)
    assert one.sha256 != two.sha256


def test_demo_opens_with_the_phishing_example_and_has_both_sides() -> None:
    items = suites.demo()
    assert (items[0].id, items[0].label) == ("phishing", "harmful")
    assert sum(item.label == "harmful" for item in items) >= 200
    assert sum(item.label == "benign" for item in items) >= 200
    assert len({item.id for item in items}) == len(items)
