"""Each way in which a file is commonly broken: what costs a row, what costs the file, and what the message says."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records import Example, Rejected
from curate.sources import SourceError, SourceSpec, read_pool, read_source
from curate.sources.files import MAX_LINE_BYTES
from curate.sources.opening import COMPRESSIONS

ROW = {"prompt": "2 + 2?", "completion": "4"}
GOOD = json.dumps(ROW).encode()


def packed(content: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def read(path) -> list[Example | Rejected]:
    return list(read_source(SourceSpec(path=str(path))))


def reasons(path) -> list[tuple[str, str]]:
    return [(row.origin.rpartition(":")[2], row.reason) for row in read(path) if isinstance(row, Rejected)]


@pytest.mark.parametrize("ending", sorted(COMPRESSIONS))
def test_a_cut_stream_and_a_wrong_ending_are_refused(tmp_path, ending):
    codec = COMPRESSIONS[ending]
    lines = b"".join(json.dumps({**ROW, "id": str(n)}).encode() + b"\n" for n in range(3000))
    whole = tmp_path / f"whole.jsonl{ending}"
    whole.write_bytes(packed(lines, codec))
    assert len(read(whole)) == 3000
    joined = tmp_path / f"joined.jsonl{ending}"  # what `cat a.gz b.gz` makes
    joined.write_bytes(packed(lines[: len(lines) // 2], codec) + packed(lines[len(lines) // 2 :], codec))
    assert [row.id for row in read(joined)] == [row.id for row in read(whole)]
    cut = tmp_path / f"cut.jsonl{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    plain = tmp_path / f"plain.jsonl{ending}"
    plain.write_bytes(lines)
    for path in (cut, plain):
        with pytest.raises(
            SourceError, match=f"{path.name}: not readable as {codec} .*compress it again, or correct its name"
        ):
            read(path)


def test_equal_keys_and_numbers_that_are_none_cost_their_row(tmp_path):
    lines = [
        GOOD,
        b'{"prompt": "a", "completion": "b", "prompt": "c"}',
        b'{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}',
        b'{"prompt": "a", "completion": "b", "score": NaN}',
        b'{"prompt": "a", "completion": "b", "score": -Infinity}',
        b'{"messages": "[{\\"role\\": \\"user\\", \\"role\\": \\"user\\"}]"}',
    ]
    expected = [
        ("2", "the key 'prompt' stands twice in one object"),
        ("3", "the key 'role' stands twice in one object"),
        ("4", "NaN is not JSON; write null or leave the field out"),
        ("5", "-Infinity is not JSON; write null or leave the field out"),
        ("6", "messages is text, but the key 'role' stands twice in one object"),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "a.json").write_bytes(b"[" + b",\n".join(lines) + b" ]\n")
    assert reasons(tmp_path / "a.jsonl") == reasons(tmp_path / "a.json") == expected


def test_lines_too_long_too_deep_or_of_wrong_types(tmp_path):
    lines = [
        GOOD,
        b'{"prompt": "' + b"x" * 50_000_000 + b'", "completion": "y"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b', "completion": "x"}',
        b'{"prompt": ' + b"[" * 700 + b"]" * 700 + b', "completion": "x"}',
        b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'", "completion": "y"}',
        b'{"prompt": 1, "completion": true}',
        b'{"messages": {"role": "user"}}',
        b'{"conversations": [1, null]}',
        b'"text"',
        b'{"prompt": "a\\u0000", "completion": "y"}',
        b'{"prompt": "a", "completion": "\xff"}',
        b"\0\0\0",
        GOOD[:-3],
        GOOD,
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = read(path)
    assert [isinstance(row, Example) for row in found] == [True, *[False] * 13, True]
    assert [reason for _, reason in reasons(path)] == [
        "longer than 200000 characters",
        "nested too deeply",
        "nested too deeply",
        "messages[0].content is not a string",
        f"the line is longer than {MAX_LINE_BYTES} bytes",
        "messages[0].content is not a string",
        "messages is not a list",
        "messages[0] is not an object with role and content",
        "the line is not a JSON object",
        "messages[0].content contains a null byte",
        "the line is not UTF-8",
        "the line is not valid JSON",
        "the line is not valid JSON",
    ]


def test_ragged_csv_rows_and_columns_of_one_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\nc\nd,e,f\n\ng,h\n")
    assert reasons(path) == [("3", "fewer fields than the header has"), ("4", "more fields than the header has")]
    assert [row.messages[0].content for row in read(path) if isinstance(row, Example)] == ["a", "g"]
    path.write_text("prompt,completion,prompt\na,b,c\n")
    with pytest.raises(SourceError, match=r"a\.csv: the column 'prompt' stands twice in the header; rename"):
        read(path)
    path.write_text('prompt,completion\na,"b\n')
    with pytest.raises(SourceError, match=r"a\.csv:2: not valid CSV .*quote fields"):
        read(path)
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["prompt", "completion", "prompt"]), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: the column 'prompt' stands twice"):
        read(tmp_path / "a.parquet")


def test_a_parquet_file_cut_in_the_middle(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{**ROW, "id": str(n)} for n in range(5000)]), path, row_group_size=500)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[: len(whole) // 2] + whole[-len(whole) // 4 :]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.parquet: not a readable Parquet file .*write it again"):
            read(path)


def test_empty_files_gone_files_and_folders_in_their_place(tmp_path):
    good, empty = tmp_path / "good.jsonl", tmp_path / "empty.jsonl"
    good.write_bytes(GOOD)
    empty.write_bytes(b"")
    with pytest.raises(SourceError, match=r"no rows in .*empty\.jsonl; add data, or take the source out"):
        read_pool([SourceSpec(path=str(good)), SourceSpec(path=str(empty))])
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(SourceError, match=r"folder\.jsonl: no data file in this folder"):
        read(folder)
    (folder / "a.jsonl").mkdir()
    (folder / "b.jsonl").write_bytes(GOOD)
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    assert len(read(folder)) == 1
    (folder / "c.jsonl").write_bytes(GOOD)
    rows = read_source(SourceSpec(path=str(folder)))
    next(rows)
    (folder / "c.jsonl").unlink()
    with pytest.raises(SourceError, match=r"c\.jsonl: cannot be read \(No such file or directory\); see that"):
        list(rows)
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        read("/dev/null")
    with pytest.raises(SourceError, match=r"cannot be read \(File name too long\)"):
        read(tmp_path / ("x" * 300 + ".jsonl"))


def test_a_name_that_is_not_utf8_can_be_stored(tmp_path):
    (tmp_path / "bad\udcff.jsonl").write_bytes(GOOD + b"\nx\n")
    read_rows = read(tmp_path)
    assert [row.origin for row in read_rows] == [f"{tmp_path}/bad\\udcff.jsonl:{n}" for n in (1, 2)]
