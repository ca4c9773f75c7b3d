"""Patterns, compressed files and names: what a path stands for."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sources import SourceError, SourceSpec, read_reported, read_reports, read_source, write_reports
from curate.sources.opening import COMPRESSIONS, find_files, fingerprint, is_pattern, source_name

ROWS = [{"id": f"r{n}", "prompt": f"What is {n}?", "completion": "A number."} for n in range(4)]


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = COMPRESSIONS.get(path.suffix)
    with pa.output_stream(str(path), compression=codec) as stream:
        stream.write(content)
    return path


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("ending", sorted(COMPRESSIONS))
def test_every_format_is_the_same_when_compressed(tmp_path, ending):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    contents = {
        "jsonl": lines(ROWS),
        "json": json.dumps(ROWS).encode(),
        "csv": ("id,prompt,completion\n" + "".join(",".join(row.values()) + "\n" for row in ROWS)).encode(),
        "parquet": sink.getvalue().to_pybytes(),
    }
    for format, content in contents.items():
        plain, packed = put(tmp_path / f"a.{format}", content), put(tmp_path / f"b/a.{format}{ending}", content)
        found = [list(read_source(SourceSpec(path=str(path)))) for path in (plain, packed)]
        assert [(row.id, row.messages, row.source) for row in found[0]] == [
            (row.id, row.messages, "a") for row in found[1]
        ]
        assert found[1][0].origin.startswith(f"{packed}:")


def test_patterns_find_sorted_data_files_only(tmp_path):
    for name in ("b.jsonl.gz", "a.jsonl.gz", "deep/er/c.jsonl.gz", ".hidden/d.jsonl.gz", "e.jsonl"):
        put(tmp_path / name, lines(ROWS[:1]))
    put(tmp_path / "notes.txt.gz", b"no data")

    def found(pattern):
        return [file.name.removeprefix(f"{tmp_path}/") for file in find_files(f"{tmp_path}/{pattern}")]

    assert found("*.jsonl.gz") == ["a.jsonl.gz", "b.jsonl.gz"]
    assert found("**/*.gz") == ["a.jsonl.gz", "b.jsonl.gz", "deep/er/c.jsonl.gz"]
    assert found("[be].*") == ["b.jsonl.gz", "e.jsonl"]
    with pytest.raises(SourceError, match=r"\*\.csv: no data file fits this pattern"):
        found("*.csv")


def test_a_name_with_brackets_is_itself(tmp_path):
    path = put(tmp_path / "a[1].jsonl", lines(ROWS))
    assert not is_pattern(str(path)) and [file.path for file in find_files(str(path))] == [str(path)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/pool.v2.jsonl.gz", "pool.v2"),
        ("data/pool.parquet", "pool"),
        ("data/chats/**/*.jsonl", "chats"),
        ("s3://bucket/sets/chats/*.parquet", "chats"),
        ("s3://bucket/*.parquet", "bucket"),
        ("s3://bucket/sets/chats/", "chats"),
        ("s3://bucket/sets/a.jsonl.zst", "a"),
    ],
)
def test_source_names(path, name):
    assert source_name(path) == name


def test_the_fingerprint_follows_content_and_names(tmp_path):
    pattern = f"{tmp_path}/*.jsonl"
    path = put(tmp_path / "a.jsonl", b"one")
    first = fingerprint(pattern)
    put(path, b"two")
    second = fingerprint(pattern)
    path.rename(tmp_path / "b.jsonl")
    third = fingerprint(pattern)
    put(tmp_path / "notes.txt", b"not read")
    assert len({first, second, third}) == 3 and fingerprint(pattern) == third


def test_what_was_read_is_told_per_source(tmp_path):
    put(tmp_path / "d/a.jsonl", lines([*ROWS[:2], {"messages": []}, {"x": 1}]) + b"no json\n")
    put(tmp_path / "d/b.jsonl.gz", lines([{"license": "MIT", "instruction": "i", "output": "o"}]))
    put(tmp_path / "t.csv", b"prompt,completion\nq,a\n")
    specs = [
        SourceSpec(path=f"{tmp_path}/d/*", license="CC-BY-4.0", attribution="The Asker's Club"),
        SourceSpec(path=str(tmp_path / "t.csv"), shape="prompt_completion"),
    ]
    pool = read_reported(specs, "pool", max_rejected=0.5)
    write_reports(tmp_path / "sources.json", pool.reports)
    assert read_reports(tmp_path / "sources.json") == pool.reports
    first, second = json.loads((tmp_path / "sources.json").read_text())
    sizes = [(tmp_path / "d" / name).stat().st_size for name in ("a.jsonl", "b.jsonl.gz")]
    assert first == {
        "use": "pool",
        "path": f"{tmp_path}/d/*",
        "shape": "auto",
        "attribution": "The Asker's Club",
        "languages": [],
        "revision": None,
        "rows": 6,
        "examples": 3,
        "rejected": 3,
        "shapes": {"alpaca": 1, "messages": 1, "prompt_completion": 2, "unrecognised": 1},
        "sources": {"d": 3},
        "licenses": {"CC-BY-4.0": 3},
        "files": [
            {"file": f"{tmp_path}/d/a.jsonl", "bytes": sizes[0], "rows": 5, "rejected": 3},
            {"file": f"{tmp_path}/d/b.jsonl.gz", "bytes": sizes[1], "rows": 1, "rejected": 0},
        ],
        "bytes": sum(sizes),
    }
    assert second["shape"] == "prompt_completion" and second["licenses"] == {"unknown": 1}
    words = pool.reports[0].in_words()
    assert f"6 rows of 2 files, {sum(sizes):,} bytes" in words and "3 rejected" in words and "CC-BY-4.0 3" in words
