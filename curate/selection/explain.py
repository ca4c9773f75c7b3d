"""What a selection is made of: influence per target and task, winning tasks, source shares, and why a row is not in
it.

The figures of arXiv 2501.12147: AID, the average influence distribution of a row set, and THI, the number of its rows
whose strongest task is t. Both are computed on the usable rows and columns of `normalise`, raw or on z-scores;
unusable columns come out as NaN. O(|S| * M) after opening the matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curate.selection.normalise import SelectionError, as_matrix, usable
from curate.selection.result import NO_TARGET, Selection

RESERVED_COLUMNS = ("rank", "id", "source", "target", "task", "utility")
ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class InfluenceProfile:
    """AID of a row set. per_target: (M,) float64; per_task: label -> mean over its targets; lowest, highest: over
    targets.

    between_task_std has ddof 0: it describes these tasks and estimates no others.
    """

    per_target: np.ndarray
    per_task: dict[Any, float]
    between_task_std: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class SourceShare:
    """Rows of one source in the pool and in the selection, with their shares of each (0 to 1)."""

    source: str
    pool: int
    selected: int
    pool_share: float
    selected_share: float


@dataclass(frozen=True)
class WhyNot:
    """A row against the end of a BIDS run: `gap` is what it would have scored, `target` the column in which.

    last_utility: the last pick's. `selected_at` is the row's rank (from 0) if it is in the selection, else None.
    """

    row: int
    gap: float
    target: int
    last_utility: float
    selected_at: int | None


def average_influence(
    scores: np.ndarray, rows: np.ndarray, tasks: Sequence[Any], *, normalize: bool = True
) -> InfluenceProfile:
    """AID_j = mean over the row indices `rows` of X[i, j]; X is Z, or the raw scores."""
    values, columns = _values(scores, rows, normalize)
    per_target = np.full(as_matrix(scores).shape[1], np.nan)
    per_target[columns] = values.mean(axis=0)
    per_task = {
        task: float(np.mean([per_target[column] for column in columns if tasks[column] == task]))
        for task in dict.fromkeys(tasks[column] for column in columns)
    }
    means = np.array(list(per_task.values()))
    return InfluenceProfile(
        per_target, per_task, float(means.std()), float(per_target[columns].min()), float(per_target[columns].max())
    )


def strongest_tasks(
    scores: np.ndarray,
    rows: np.ndarray,
    tasks: Sequence[Any],
    *,
    by: Literal["task_mean", "instance"] = "instance",
    normalize: bool = True,
) -> dict[Any, int]:
    """THI: how many of `rows` have task t as their strongest; ties go to the first task or lowest column.

    by="task_mean": largest mean over the task's columns (the paper's section on LESS, there on raw scores,
    `normalize=False`); by="instance": the task of the largest column (its section on BIDS). Report which of the two
    is shown.
    """
    values, columns = _values(scores, rows, normalize)
    labels = [tasks[column] for column in columns]
    names = list(dict.fromkeys(labels))
    if by == "instance":
        winners = [labels[column] for column in values.argmax(axis=1)]
    else:
        means = [values[:, [label == name for label in labels]].mean(axis=1) for name in names]
        winners = [names[task] for task in np.argmax(means, axis=0)]
    counts = Counter(winners)
    return {name: counts[name] for name in names}


def imbalance_ratio(counts: dict[Any, int]) -> float:
    """Largest over smallest count; infinity when a task has none."""
    lowest = min(counts.values())
    return max(counts.values()) / lowest if lowest else math.inf


def source_shares(pool_sources: Sequence[str], rows: Iterable[int]) -> list[SourceShare]:
    """Per source its rows and share before and after, largest in the pool first, then by name."""
    chosen = [int(row) for row in rows]
    before, after = Counter(pool_sources), Counter(pool_sources[row] for row in chosen)
    return [
        SourceShare(source, count, after[source], count / len(pool_sources), after[source] / max(1, len(chosen)))
        for source, count in sorted(before.items(), key=lambda item: (-item[1], item[0]))
    ]


def utility_curve(selection: Selection, points: int = 200) -> list[tuple[int, float]]:
    """(rank from 1, utility) at no more than `points` evenly spaced ranks, the first and last among them."""
    count = selection.order.size
    ranks = np.unique(np.linspace(0, max(0, count - 1), min(points, count)).round().astype(int))
    return [(int(rank) + 1, float(selection.utility[rank])) for rank in ranks]


def why_not(scores: np.ndarray, selection: Selection, row: int, *, normalize: bool = True) -> WhyNot:
    """max_j(Z[row, j] - mean_j of the final selection) against the last utility, for a BIDS `selection` of `scores`.

    A gap below the last utility says that even at the end other rows added more. Raises `SelectionError` for an
    unusable row.
    """
    if not selection.order.size:
        raise SelectionError("the selection is empty; there is nothing to compare the row with")
    values, columns = _values(scores, np.concatenate([selection.order, [row]]), normalize)
    gaps = values[-1] - values[:-1].mean(axis=0)
    found = np.flatnonzero(selection.order == row)
    return WhyNot(
        row=row,
        gap=float(gaps.max()),
        target=int(columns[gaps.argmax()]),
        last_utility=float(selection.utility[-1]),
        selected_at=int(found[0]) if found.size else None,
    )


def selection_table(
    selection: Selection,
    scores: np.ndarray,
    *,
    ids: Sequence[str],
    sources: Sequence[str],
    targets: Sequence[str],
    tasks: Sequence[str],
) -> pa.Table:
    """`selection.parquet`: rank (from 0), id, source, target id, its task, utility, and per task the mean raw
    influence.

    ids, sources: (N,) of the rows; targets, tasks: (M,) of the columns. target, task and utility are null where the
    method compared nothing. Raises `SelectionError` if a task is named like one of the fixed columns.
    """
    names = list(dict.fromkeys(tasks))
    if clash := [name for name in names if name in RESERVED_COLUMNS]:
        raise SelectionError(f"task {clash[0]!r} is also a column of selection.parquet; rename the capability")
    matrix, order = as_matrix(scores), selection.order
    won = [None if column == NO_TARGET else int(column) for column in selection.target]
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(order.size), pa.int64()),
        "id": pa.array([ids[row] for row in order], pa.string()),
        "source": pa.array([sources[row] for row in order], pa.string()),
        "target": pa.array([None if column is None else targets[column] for column in won], pa.string()),
        "task": pa.array([None if column is None else tasks[column] for column in won], pa.string()),
        "utility": pa.array(selection.utility, pa.float64(), from_pandas=True),
    }
    unusable = set(selection.dropped_columns)
    for name in names:
        members = [column for column, task in enumerate(tasks) if task == name and column not in unusable]
        means = [
            np.asarray(matrix[order[start : start + ROWS_PER_BLOCK]], dtype=np.float64)[:, members].mean(axis=1)
            for start in range(0, order.size if members else 0, ROWS_PER_BLOCK)
        ]
        values = np.concatenate(means) if means else np.full(order.size, np.nan)
        columns[name] = pa.array(values, pa.float64(), from_pandas=True)
    return pa.table(columns)


def _values(scores: np.ndarray, rows: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """(|rows|, m) float64 values of the usable columns, and the (m,) indices of those columns."""
    view = usable(as_matrix(scores))
    rows = np.asarray(rows, dtype=np.int64)
    if not rows.size or not view.columns.size:
        raise SelectionError("no rows, or no usable columns, to describe")
    if not np.isin(rows, view.rows).all():
        bad = rows[~np.isin(rows, view.rows)][0]
        raise SelectionError(f"row {bad} is not among the usable rows: it is out of range or holds NaN or infinity")
    view = view if normalize else view.raw()
    return np.stack([view.row(position) for position in np.searchsorted(view.rows, rows)]), view.columns
