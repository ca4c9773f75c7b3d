"""Writes a selection as a dataset folder: Parquet, a dataset card, chat JSONL for trainers, and a manifest of
checksums.

The card's YAML header names the Parquet files, so `datasets.load_dataset(folder)` opens exactly those and the JSONL
beside them is not read twice. Nothing depends on the clock or the machine: the same input gives the same bytes.
Writing is not atomic; that is the stage store's work. Linear in the characters selected.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.export.card import CARD, CHAT, MANIFEST, CardInfo, dataset_card
from curate.records import MESSAGES_TYPE, DataError, Example, messages_as_dicts

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
ROWS_PER_SHARD = 200_000


class ExportError(DataError):
    """Examples and selection rows that do not belong together."""


def export_dataset(
    folder: Path,
    examples: Sequence[Example],
    selection_rows: Sequence[Mapping[str, Any]],
    card: CardInfo,
    *,
    lineage: Mapping[str, Any] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `README.md`, `chat.jsonl` and `manifest.json`; return the manifest.

    examples: in rank order. selection_rows: the rows of `selection.parquet` in the same order (`id, rank, utility,
    task`). lineage: inputs and parameters to put in the manifest, JSON values. Raises `ExportError` when there are no
    rows, the two lists differ, or ranks do not ascend.
    """
    _check(examples, selection_rows)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    files = _write_shards(folder, examples, selection_rows, rows_per_shard)
    with (folder / CHAT).open("w", encoding="utf-8", newline="\n") as lines:
        for example in examples:
            lines.write(json.dumps({"messages": messages_as_dicts(example.messages)}, ensure_ascii=False) + "\n")
    (folder / CARD).write_text(dataset_card(card, examples), encoding="utf-8", newline="\n")
    manifest = {
        "rows": len(examples),
        "sources": dict(sorted(Counter(example.source for example in examples).items())),
        "tasks": dict(sorted(Counter(str(row["task"]) for row in selection_rows if row["task"] is not None).items())),
        "files": {name: _checksum(folder / name) for name in sorted([*files, CARD, CHAT])},
        "lineage": dict(lineage or {}),
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")
    return manifest


def _check(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> None:
    if not examples:
        raise ExportError("nothing to export: the selection is empty; raise the budget")
    if len(examples) != len(rows):
        raise ExportError(f"{len(examples)} examples but {len(rows)} selection rows; pass one per example")
    for position, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if example.id != row["id"]:
            raise ExportError(
                f"row {position}: example {example.id!r} stands where the selection has {row['id']!r}; "
                "put the examples in the selection's order"
            )
        if position and row["rank"] <= rows[position - 1]["rank"]:
            raise ExportError(f"row {position} ({example.id!r}): rank {row['rank']} does not ascend; sort by rank")


def _write_shards(
    folder: Path, examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], rows_per_shard: int
) -> list[str]:
    starts = range(0, len(examples), rows_per_shard)
    names = []
    for number, start in enumerate(starts):
        part = slice(start, start + rows_per_shard)
        table = pa.Table.from_pylist(
            [_export_row(*pair) for pair in zip(examples[part], rows[part], strict=True)], schema=EXPORT_SCHEMA
        )
        names.append(f"data/train-{number:05d}-of-{len(starts):05d}.parquet")
        pq.write_table(table, folder / names[-1])
    return names


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


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
