"""What makes a row an example, and that files keep it."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from curate.records import (
    POOL_SCHEMA,
    REJECTED_SCHEMA,
    TARGETS_SCHEMA,
    DataError,
    Example,
    Message,
    Place,
    Rejected,
    content_hash,
    messages_problem,
    parse_row,
    read_examples,
    read_rejected,
    reject,
    write_examples,
    write_rejected,
)

USER, ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
TOOL = {"role": "tool", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages is missing or empty"),
        ([], "messages is missing or empty"),
        ("hello", "messages is missing or empty"),
        ([USER, None], "messages[1] is not an object with role and content"),
        (
            [{"role": "critic", "content": "x"}, ASSISTANT],
            "messages[0].role is 'critic', not one of system, user, assistant, tool",
        ),
        ([TOOL, USER, ASSISTANT], "messages[0] is a tool's, but no turn of the assistant comes before it"),
        ([USER, TOOL, ASSISTANT], "messages[1] is a tool's, but no turn of the assistant comes before it"),
        ([USER, ASSISTANT, TOOL], "the last turn is not the assistant's"),
        ([USER, {"role": "assistant", "content": " \n"}], "messages[1].content is empty"),
        ([USER, {"role": "assistant"}], "messages[1].content is missing"),
        ([{"role": "user", "content": 3}, ASSISTANT], "messages[0].content is not a string"),
        ([{"role": "user", "content": "a\0b"}, ASSISTANT], "messages[0].content contains a null byte"),
        ([{"role": "user", "content": "\ud800"}, ASSISTANT], "messages[0].content is not valid Unicode"),
        ([USER], "no assistant turn"),
        ([ASSISTANT], "no user turn"),
        ([USER, ASSISTANT, USER], "the last turn is not the assistant's"),
        ([{"role": "user", "content": "x" * 10}, ASSISTANT], "longer than 10 characters"),
    ],
)
def test_problems_are_named(messages, reason):
    assert messages_problem(messages, max_characters=10) == reason


def test_valid_rows_have_no_problem():
    system = {"role": "system", "content": "Be brief."}
    assert messages_problem([system, USER, ASSISTANT, USER, ASSISTANT]) is None
    nothing = {"role": "tool", "content": ""}
    assert messages_problem([USER, ASSISTANT, TOOL, nothing, ASSISTANT, USER, ASSISTANT]) is None
    assert messages_problem([USER, ASSISTANT], max_characters=len("2 + 2?4")) is None


def test_ids_are_kept_or_made_from_the_content():
    row = {"messages": [USER, ASSISTANT]}
    made = parse_row(row, origin="a:1", source="s")
    assert made == parse_row({**row, "id": " "}, origin="a:1", source="s")
    assert made.id == "s-" + content_hash(made.messages)
    assert made.id == parse_row(row, origin="elsewhere:9", source="s").id
    assert parse_row({**row, "id": 7}, origin="a:1", source="s").id == "7"
    assert content_hash((Message("user", "a"),)) != content_hash((Message("assistant", "a"),))
    for bad, reason in ((1.5, "neither a string nor an integer"), (True, "neither"), ("a\0", "null byte")):
        assert reason in parse_row({**row, "id": bad}, origin="a:1", source="s").reason
    assert parse_row(row, origin="a:1", source=3).reason == "source is not a string"


def test_rejected_rows_can_always_be_stored(tmp_path):
    rows = [
        reject("f:1", "why", {"id": "a\0", "messages": "\ud800" * 500}),
        reject("f:2", "why", b"x"),
        reject("f:3", "w", "t"),
    ]
    write_rejected(tmp_path / "rejected.parquet", rows)
    assert read_rejected(tmp_path / "rejected.parquet") == rows
    assert rows[0].id == "a\\0" and len(rows[0].excerpt) <= 200
    write_rejected(tmp_path / "none.parquet", [])
    assert pq.read_schema(tmp_path / "none.parquet").equals(REJECTED_SCHEMA)
    assert read_rejected(tmp_path / "none.parquet") == []


@pytest.mark.parametrize("capability", [None, "math"])
def test_examples_survive_the_file(tmp_path, capability):
    messages = (Message("user", "naïve — 数学\n"), Message("assistant", "sí"))
    examples = [Example(f"r{row}", "s", messages, "MIT", "d", f"f:{row}", capability) for row in range(3)]
    write_examples(tmp_path / "x.parquet", examples, targets=capability is not None)
    assert read_examples(tmp_path / "x.parquet") == examples
    assert pq.read_schema(tmp_path / "x.parquet").equals(TARGETS_SCHEMA if capability else POOL_SCHEMA)


def test_a_file_of_another_kind_is_named(tmp_path):
    write_rejected(tmp_path / "x.parquet", [Rejected("o", "i", "r", "e")])
    with pytest.raises(DataError, match=r"x\.parquet lacks the column\(s\) source, license"):
        read_examples(tmp_path / "x.parquet")


def test_the_place_of_a_row():
    assert Place.of("data/pool:v2.jsonl:17") == ("data/pool:v2.jsonl", 17)
    assert Place.of("hub:club/set@abc/train:3") == Place("hub:club/set@abc/train", 3)
    for origin in ("pool.jsonl", ":3", "pool.jsonl:x", "pool.jsonl:", "pool.jsonl:²"):
        with pytest.raises(DataError, match="is not the place of a row"):
            Place.of(origin)
