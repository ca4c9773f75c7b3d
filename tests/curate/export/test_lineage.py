"""Every exported row leads back to its file and line, and to what was done to it."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from curate.cleaning import Changed
from curate.export.lineage import Trail, shareable_paths, write_lineage
from curate.records import DataError, Example, Message

TURNS = (Message("user", "?"), Message("assistant", "!"))


def example(name: str, origin: str) -> Example:
    return Example(name, "s", TURNS, license="MIT", domain="d", origin=origin)


def test_a_row_leads_back_to_its_line_and_forward_to_its_shard(tmp_path):
    examples = [example("a", "pool/x.jsonl:7"), example("b", "hub:o/n@c0/train:2"), example("c", "/home/me/y.csv:3")]
    rows = [
        {
            "rank": 0,
            "id": "a",
            "source": "s",
            "target": "t1",
            "task": "math",
            "utility": 2.0,
            "math": 0.5,
            "code": None,
        },
        {"rank": 1, "id": "b", "source": "s", "target": None, "task": None, "utility": None, "math": 0.1, "code": 0.2},
        {
            "rank": 2,
            "id": "c",
            "source": "s",
            "target": "t2",
            "task": "code",
            "utility": 1.0,
            "math": -1.0,
            "code": 0.3,
        },
    ]
    trail = Trail(
        filters=("exact_duplicates", "personal_data"),
        changed=(Changed("b", "s", "personal_data", "email", 2), Changed("b", "s", "personal_data", "ip", 1)),
        tokens={"a": 5, "b": 8, "c": 3},
        truncated=frozenset("b"),
        clusters={"c": 4},
    )
    write_lineage(tmp_path / "l.parquet", examples, rows, trail, rows_per_shard=2)
    first, second, third = pq.read_table(tmp_path / "l.parquet").to_pylist()
    assert first == {
        "id": "a",
        "rank": 0,
        "shard": "data/train-00000-of-00002.parquet",
        "shard_row": 0,
        "source": "s",
        "license": "MIT",
        "file": "pool/x.jsonl",
        "row": 7,
        "transformations": [],
        "filters_passed": ["exact_duplicates", "personal_data"],
        "tokens": 5,
        "truncated": False,
        "utility": 2.0,
        "target": "t1",
        "task": "math",
        "influence": [{"task": "math", "score": 0.5}],
        "near_duplicate_cluster": None,
    }
    assert (second["file"], second["row"], second["truncated"]) == ("hub:o/n@c0/train", 2, True)
    assert second["transformations"] == [
        {"step": "personal_data", "what": "email", "places": 2},
        {"step": "personal_data", "what": "ip", "places": 1},
    ]
    assert (third["file"], third["row"], third["near_duplicate_cluster"]) == ("y.csv", 3, 4)
    assert (third["shard"], third["shard_row"]) == ("data/train-00001-of-00002.parquet", 0)


def test_absolute_paths_are_told_from_their_common_folder_down():
    told = shareable_paths(["/home/me/a/x.jsonl", "/home/me/b/x.jsonl", "pool/x.jsonl", "s3://b/x", "hub:o/n@c/train"])
    assert told == {
        "/home/me/a/x.jsonl": "a/x.jsonl",
        "/home/me/b/x.jsonl": "b/x.jsonl",
        "pool/x.jsonl": "pool/x.jsonl",
        "s3://b/x": "s3://b/x",
        "hub:o/n@c/train": "hub:o/n@c/train",
    }
    assert shareable_paths([]) == {} and shareable_paths(["/x.jsonl"]) == {"/x.jsonl": "x.jsonl"}


def test_a_row_without_a_place_is_refused(tmp_path):
    rows = [{"rank": 0, "id": "a", "task": None, "utility": None}]
    with pytest.raises(DataError, match="is not the place of a row"):
        write_lineage(tmp_path / "l.parquet", [example("a", "nowhere")], rows, Trail(), 10)
