"""From scores with NaN in them to a score folder: what cannot be scored is left out with its id and the reason.

The same rule as for the attribution matrix: a column without any finite value says nothing and goes first; then the
rows that are not finite in what remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curate.records import DataError
from curate.scores import VALUES, write_labels

Kind = Literal["embeddings", "bm25", "ngrams"]
NO_ROW_SCORE: dict[Kind, str] = {
    "embeddings": "its last-layer vector is zero or not finite",
    "bm25": "no word in the user's and assistant's turns",
    "ngrams": "no word or sign in the user's and assistant's turns",
}
NO_COLUMN_SCORE: dict[Kind, str] = {
    "embeddings": "its last-layer vector is zero or not finite",
    "bm25": "none of its words occurs in the pool",
    "ngrams": "no word or sign in its targets",
}


class SimilarityError(DataError):
    """Pool and targets between which no similarity can be measured."""


@dataclass(frozen=True)
class SimilarityMatrix:
    """values: (N, M) float32, all finite; row_ids (N,); column_ids, tasks (M,); excluded_rows, excluded_columns: id ->
    reason."""

    kind: Kind
    values: np.ndarray
    row_ids: list[str]
    column_ids: list[str]
    tasks: list[str]
    excluded_rows: dict[str, str]
    excluded_columns: dict[str, str]


def similarity_matrix(
    kind: Kind, values: np.ndarray, row_ids: Sequence[str], column_ids: Sequence[str], tasks: Sequence[str]
) -> SimilarityMatrix:
    """The usable part of `values`, (N, M) with NaN where there is no score.

    Raises `SimilarityError` when no row is left, or none of the columns of a task.
    """
    if values.shape != (len(row_ids), len(column_ids)) or len(tasks) != len(column_ids):
        raise SimilarityError(
            f"{kind} scores of shape {values.shape} for {len(row_ids)} rows, {len(column_ids)} columns and "
            f"{len(tasks)} task labels"
        )
    finite = np.isfinite(values)
    columns = finite.any(axis=0)
    rows = finite[:, columns].all(axis=1)
    lost = sorted(set(tasks) - {task for task, good in zip(tasks, columns, strict=True) if good})
    if not columns.any() or not rows.any():
        raise SimilarityError(f"{kind}: no pool row can be scored: {NO_ROW_SCORE[kind]}; look at the pool")
    if lost:
        raise SimilarityError(
            f"{kind}: no target of {', '.join(lost)} can be used: {NO_COLUMN_SCORE[kind]}. Replace them or remove the "
            "capability"
        )
    everything = rows.all() and columns.all()
    return SimilarityMatrix(
        kind=kind,
        values=values if everything else values[np.ix_(rows, columns)],
        row_ids=[row for row, good in zip(row_ids, rows, strict=True) if good],
        column_ids=[column for column, good in zip(column_ids, columns, strict=True) if good],
        tasks=[task for task, good in zip(tasks, columns, strict=True) if good],
        excluded_rows={row: NO_ROW_SCORE[kind] for row, good in zip(row_ids, rows, strict=True) if not good},
        excluded_columns={c: NO_COLUMN_SCORE[kind] for c, good in zip(column_ids, columns, strict=True) if not good},
    )


def write_similarity(folder: Path, matrix: SimilarityMatrix, parameters: Mapping[str, Any]) -> None:
    """The matrix as a score folder (`curate.scores`), with its column statistics, parameters and exclusions."""
    np.save(folder / VALUES, matrix.values)
    wide = matrix.values.astype(np.float64)
    write_labels(
        folder,
        matrix.row_ids,
        matrix.column_ids,
        matrix.tasks,
        statistics={
            "mean": wide.mean(axis=0),
            "std": wide.std(axis=0, ddof=1) if len(wide) > 1 else np.zeros(wide.shape[1]),
        },
        summary={
            "kind": matrix.kind,
            "parameters": dict(parameters),
            "excluded_rows": matrix.excluded_rows,
            "excluded_columns": matrix.excluded_columns,
        },
    )
