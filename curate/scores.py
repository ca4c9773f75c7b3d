"""A score matrix on disk: (N pool rows, M targets) with the ids of its rows and the id and task of its columns.

Whatever scores rows (gradient influence, text or embedding similarity) writes this folder and every selection method
reads it, so that any method runs on any score. The values stay a memory map: N x M may be far larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VALUES, ROWS, COLUMNS, SUMMARY = "scores.npy", "rows.parquet", "columns.parquet", "scores.json"


@dataclass(frozen=True)
class ScoreMatrix:
    """values: (N, M) float32 memory map; row_ids (N,); column_ids, tasks (M,)."""

    values: np.ndarray
    row_ids: list[str]
    column_ids: list[str]
    tasks: list[str]


def write_labels(
    folder: Path,
    row_ids: Sequence[str],
    column_ids: Sequence[str],
    tasks: Sequence[str],
    *,
    summary: Mapping[str, Any],
    statistics: Mapping[str, np.ndarray] | None = None,
) -> None:
    """The matrix's tables beside its `VALUES` file, which the caller has written (a large one block by block).

    statistics: name -> (M,) figures of the columns, such as mean and std; summary: anything else, as JSON.
    """
    pq.write_table(pa.table({"id": list(row_ids)}), folder / ROWS)
    pq.write_table(pa.table({"id": list(column_ids), "task": list(tasks), **(statistics or {})}), folder / COLUMNS)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))


def read_scores(folder: Path) -> ScoreMatrix:
    columns = pq.read_table(folder / COLUMNS, columns=["id", "task"]).to_pydict()
    return ScoreMatrix(
        values=np.load(folder / VALUES, mmap_mode="r"),
        row_ids=pq.read_table(folder / ROWS)["id"].to_pylist(),
        column_ids=columns["id"],
        tasks=columns["task"],
    )


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / SUMMARY).read_text())
