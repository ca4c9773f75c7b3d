"""Whatever a file holds, reading it gives examples and rejected rows that can be stored, or a SourceError."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from curate.records import Example, Rejected, messages_problem, write_examples, write_rejected
from curate.sources import SourceError, SourceSpec, read_source
from curate.sources.opening import COMPRESSIONS, FORMATS
from curate.sources.shapes import SHAPE_FIELDS, SHAPES

CODECS = {"": None, **COMPRESSIONS}
ROW = {"id": "a", "prompt": "2 + 2?", "completion": "4 — naïve"}
FUZZ = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(format: str, rows: list[dict]) -> bytes:
    if format == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    if format == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if format == ".json":
        return json.dumps(rows).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def compressed(content: bytes, ending: str) -> bytes:
    if not ending:
        return content
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, COMPRESSIONS[ending]) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def outcome(path, **spec) -> list[Example | Rejected] | str:
    """All results of reading twice, which must agree and must be storable; or the refusal."""
    runs = []
    for _ in range(2):
        try:
            runs.append(list(read_source(SourceSpec(path=str(path), **spec))))
        except SourceError as error:
            assert path.name in str(error)
            runs.append(str(error))
    assert runs[0] == runs[1]
    if isinstance(runs[0], str):
        return runs[0]
    examples = [result for result in runs[0] if isinstance(result, Example)]
    rejected = [result for result in runs[0] if isinstance(result, Rejected)]
    assert len(examples) + len(rejected) == len(runs[0])
    assert all(row.origin.startswith(f"{path}:") and row.reason for row in rejected)
    assert len({row.id for row in examples}) == len(examples)
    for row in examples:
        turns = [{"role": turn.role, "content": turn.content} for turn in row.messages]
        assert messages_problem(turns) is None
    write_examples(path.parent / "out.parquet", examples)
    write_rejected(path.parent / "rejected.parquet", rejected)
    return runs[0]


@pytest.mark.parametrize("ending", sorted(CODECS))
@pytest.mark.parametrize("format", FORMATS)
@FUZZ
@given(content=st.binary(max_size=400), packed=st.booleans())
@example(content=b"", packed=True)
@example(content=b"", packed=False)
def test_any_bytes(tmp_path, format, ending, content, packed):
    path = tmp_path / f"x{format}{ending}"
    path.write_bytes(compressed(content, ending) if packed else content)
    outcome(path)


@pytest.mark.parametrize("ending", sorted(CODECS))
@pytest.mark.parametrize("format", FORMATS)
@FUZZ
@given(data=st.data())
def test_a_good_file_cut_short_or_with_one_byte_changed(tmp_path, format, ending, data):
    content = compressed(encoded(format, [{**ROW, "id": f"r{n}"} for n in range(5)]), ending)
    position = data.draw(st.integers(0, len(content) - 1))
    path = tmp_path / f"x{format}{ending}"
    if data.draw(st.booleans()):
        path.write_bytes(content[:position])
        whole = outcome(path)
        if position and (ending or format == ".parquet"):
            assert isinstance(whole, str), "a cut stream must not pass for a short file"
    else:
        path.write_bytes(content[:position] + bytes([data.draw(st.integers(0, 255))]) + content[position + 1 :])
        outcome(path)


ROLES = ["user", "assistant", "tool", "system", "human", "gpt", "function_call", "observation"]
ODD_TEXTS = ["", " ", "x\0", "\ud800", "[]", "[[", '{"a": 1, "a": 2}', "<tool_call>", "NaN", "1e999", '{"name": "f"}']
INNER_KEYS = ["id", "source", "license", "role", "content", "from", "value", "tool_calls", "function_call"]
CALL_KEYS = ["function", "name", "arguments", "type", "text"]
TEXTS = st.sampled_from([*ROLES, *ODD_TEXTS]) | st.text(max_size=8)
KEYS = st.sampled_from([*sorted(SHAPE_FIELDS), *INNER_KEYS, *CALL_KEYS]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize("shape", ["auto", *SHAPES])
@settings(FUZZ, max_examples=40)
@given(rows=st.lists(VALUES, min_size=1, max_size=4))
def test_any_json_values_as_rows(tmp_path, shape, rows):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = outcome(path, shape=shape)
    assert isinstance(lines, list) and len(lines) == len(rows)
    listed = tmp_path / "x.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    entries = outcome(listed, shape=shape)
    assert [getattr(row, "messages", None) for row in entries] == [getattr(row, "messages", None) for row in lines]


TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXTS | st.none()},
        optional={"tool_calls": st.lists(VALUES, max_size=2), "function_call": VALUES},
    ),
    max_size=5,
)


@settings(FUZZ, max_examples=40)
@given(turns=TURNS, tools=VALUES)
def test_any_tools_and_calls(tmp_path, turns, tools):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"messages": turns, "tools": tools}) + "\n", encoding="utf-8")
    assert len(outcome(path)) == 1
