"""The rows of an exported dataset as Parquet shards.

What the writer may choose is fixed here (codec and level, row groups, format version), so that the same rows give the
same bytes; another version of Arrow may give others, since it signs its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import MESSAGES_TYPE, Example, messages_as_dicts

EXPORT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("domain", pa.string()),
        ("messages", MESSAGES_TYPE),
        ("rank", pa.int64()),
        ("utility", pa.float64()),
        ("task", pa.string()),
    ]
)
DATA = "data"
SHARDS = f"{DATA}/train-*.parquet"
ROWS_PER_GROUP = 1000  # what a reader that streams holds at once


def write_parquet(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> int:
    """Write tables, each as a row group, with settings that are ours and not the library's defaults; returns the bytes
    they take in memory."""
    size = 0
    with pq.ParquetWriter(
        path,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        write_statistics=True,
        store_schema=True,
    ) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            size += table.nbytes
    return size


def tables(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows as tables of one row group each: long texts of many rows do not fit the 2 GiB of one Arrow column."""
    source = iter(rows)
    while group := list(islice(source, ROWS_PER_GROUP)):
        yield pa.Table.from_pylist(group, schema=schema)


def shard_names(rows: int, rows_per_shard: int) -> list[str]:
    """`data/train-00000-of-00002.parquet`, ... as the hub names them."""
    shards = len(range(0, rows, rows_per_shard))
    return [f"{DATA}/train-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]


def write_shards(
    folder: Path, examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], rows_per_shard: int
) -> tuple[list[str], int]:
    """The names of the shards and the bytes of their rows in memory, as `dataset_info` counts them."""
    names, size = shard_names(len(examples), rows_per_shard), 0
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    pairs = zip(examples, rows, strict=True)
    for name in names:
        part = (_export_row(*pair) for pair in islice(pairs, rows_per_shard))
        size += write_parquet(folder / name, EXPORT_SCHEMA, tables(part, EXPORT_SCHEMA))
    return names, size


def _export_row(example: Example, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": example.id,
        "source": example.source,
        "license": example.license,
        "domain": example.domain,
        "messages": messages_as_dicts(example.messages),
        "rank": row["rank"],
        "utility": row["utility"],
        "task": row["task"],
    }
