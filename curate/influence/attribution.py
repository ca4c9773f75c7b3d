"""The attribution matrix A: checkpoint cosines averaged with the learning rates that were really used (influence spec,
section 9).

float64 accumulation over checkpoints, float32 in the file. No mean or maximum over a task happens here: that belongs
to selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.scores import VALUES, write_labels


class AttributionError(ValueError):
    """Scores from which no attribution matrix can be made."""


@dataclass(frozen=True)
class AttributionMatrix:
    """values: (N, M) float32 in [-1, 1], rows = pool, columns = targets; row_ids (N,); column_ids, tasks (M,); weights
    (K,) float64, sum 1; mean, std: (M,) float64 of the stored values, ddof 1; excluded_rows, excluded_columns: id ->
    reason."""

    values: np.ndarray
    row_ids: list[str]
    column_ids: list[str]
    tasks: list[str]
    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    excluded_rows: dict[str, str]
    excluded_columns: dict[str, str]


def attribution_matrix(
    cosines: Sequence[np.ndarray],
    weights: np.ndarray,
    row_ids: Sequence[str],
    column_ids: Sequence[str],
    tasks: Sequence[str],
    *,
    tolerance: float = 1e-3,
) -> AttributionMatrix:
    """A[i, j] = sum over checkpoints of w_k cos(U_ik, g_jk).

    cosines: K arrays (N, M), memory maps welcome; weights: (K,) with sum 1; the ids name rows and columns, `tasks`
    labels the columns. A column or row that is not finite at some checkpoint is left out, with its name and reason.
    Raises `AttributionError` on shapes that do not fit, on a cosine outside [-1, 1] by more than `tolerance`, and when
    every target of a task is unusable.
    """
    shape = (len(row_ids), len(column_ids))
    for k, part in enumerate(cosines):
        if part.shape != shape:
            raise AttributionError(f"checkpoint {k} has scores of shape {part.shape}, the ids say {shape}")
    if len(cosines) != len(weights) or not np.isclose(np.sum(weights), 1.0):
        raise AttributionError(f"{len(cosines)} checkpoints need as many weights with sum 1, got {list(weights)}")

    total = np.zeros(shape, dtype=np.float64)
    for w, part in zip(weights, cosines, strict=True):
        total += w * part
    finite = np.isfinite(total)
    good_columns: np.ndarray = np.asarray(finite.any(axis=0))
    good_rows: np.ndarray = np.asarray(finite[:, good_columns].all(axis=1))
    if good_rows.size and not good_rows.any():
        raise AttributionError("no pool row has a finite score; look at the warmup's loss")
    lost = sorted(set(tasks) - {task for task, good in zip(tasks, good_columns, strict=True) if good})
    if lost:
        raise AttributionError(f"every target of {', '.join(lost)} is unusable: replace them or remove the task")

    values = total[np.ix_(good_rows, good_columns)].astype(np.float32)
    worst = float(np.abs(values).max(initial=0.0))
    if worst > 1 + tolerance:
        raise AttributionError(f"a cosine of {worst:.4f} is outside [-1, 1]: the checkpoints' files are damaged")
    wide = values.astype(np.float64)
    return AttributionMatrix(
        values=values,
        row_ids=[row for row, good in zip(row_ids, good_rows, strict=True) if good],
        column_ids=[column for column, good in zip(column_ids, good_columns, strict=True) if good],
        tasks=[task for task, good in zip(tasks, good_columns, strict=True) if good],
        weights=np.asarray(weights, dtype=np.float64),
        mean=wide.mean(axis=0),
        std=wide.std(axis=0, ddof=1) if len(wide) > 1 else np.zeros(wide.shape[1]),
        excluded_rows={row: "no finite score" for row, good in zip(row_ids, good_rows, strict=True) if not good},
        excluded_columns={
            column: "no finite score" for column, good in zip(column_ids, good_columns, strict=True) if not good
        },
    )


def write_attribution(folder: Path, matrix: AttributionMatrix) -> None:
    """The matrix as a score folder (`curate.scores`), with its column statistics, weights and exclusions."""
    np.save(folder / VALUES, matrix.values)
    write_labels(
        folder,
        matrix.row_ids,
        matrix.column_ids,
        matrix.tasks,
        statistics={"mean": matrix.mean, "std": matrix.std},
        summary={
            "weights": matrix.weights.tolist(),
            "excluded_rows": matrix.excluded_rows,
            "excluded_columns": matrix.excluded_columns,
        },
    )
