"""Why a row is selected, and why another is not.

A selected row's reasons are its winning target and utility. A row that is not in a BIDS selection is answered by what
it would add at the end, max_j(Z[i, j] - mean of the selection in column j), against what the last pick added: ranking
all rows by that once recovers nearly the whole selection (`explain` in the specification of BIDS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.selection.explain.blocks import TaskColumns, open_view, positions_of, raw_blocks, z_blocks
from curate.selection.normalise import ScoreView, SelectionError
from curate.selection.ranking import leading
from curate.selection.result import NO_TARGET, Selection

RESERVED_COLUMNS = ("rank", "id", "source", "target", "task", "utility")


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


@dataclass(frozen=True)
class NearMiss:
    """A row left out with one of the largest gaps; row, target: indices into the scores."""

    row: int
    gap: float
    target: int


def why_not(scores: np.ndarray | ScoreView, selection: Selection, row: int, *, normalize: bool = True) -> WhyNot:
    """max_j(Z[row, j] - mean_j of the final selection) against the last utility, for a BIDS `selection` of `scores`.

    A gap below the last utility says that even at the end other rows added more. Raises `SelectionError` for an
    unusable row.
    """
    return why_not_rows(scores, selection, [row], normalize=normalize)[0]


def why_not_rows(
    scores: np.ndarray | ScoreView, selection: Selection, rows: Sequence[int], *, normalize: bool = True
) -> list[WhyNot]:
    """`why_not` of each row, for one reading of the selection."""
    view = open_view(scores) if normalize else open_view(scores).raw()
    mean = _end_mean(view, selection)
    places = {int(row): place for place, row in enumerate(selection.order)}
    found = []
    for row, position in zip(rows, positions_of(view, np.array(rows, dtype=np.int64)), strict=True):
        gaps = view.row(int(position)) - mean
        found.append(
            WhyNot(
                row=row,
                gap=float(gaps.max()),
                target=int(view.columns[gaps.argmax()]),
                last_utility=float(selection.utility[-1]),
                selected_at=places.get(row),
            )
        )
    return found


def near_misses(scores: np.ndarray | ScoreView, selection: Selection, count: int = 10) -> list[NearMiss]:
    """The `count` unselected rows with the largest gap at the end of a BIDS run, largest first, ties to the lowest
    row: what a slightly larger budget would most likely add. O(N * M)."""
    view = open_view(scores)
    mean = _end_mean(view, selection)
    gaps, targets = np.empty(view.rows.size), np.empty(view.rows.size, dtype=np.int64)
    for part, values in z_blocks(view):
        values -= mean
        targets[part] = values.argmax(axis=1)
        gaps[part] = np.take_along_axis(values, targets[part, None], axis=1)[:, 0]
    left = np.flatnonzero(~np.isin(view.rows, selection.order))
    best = left[leading(gaps[left], min(count, left.size))]
    return [NearMiss(int(view.rows[i]), float(gaps[i]), int(view.columns[targets[i]])) for i in best]


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
    names: list[Any] = list(dict.fromkeys(tasks))
    if clash := [name for name in names if name in RESERVED_COLUMNS]:
        raise SelectionError(f"task {clash[0]!r} is also a column of selection.parquet; rename the capability")
    order = selection.order
    won = [None if column == NO_TARGET else int(column) for column in selection.target]
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(order.size), pa.int64()),
        "id": pa.array([ids[row] for row in order], pa.string()),
        "source": pa.array([sources[row] for row in order], pa.string()),
        "target": pa.array([None if column is None else targets[column] for column in won], pa.string()),
        "task": pa.array([None if column is None else tasks[column] for column in won], pa.string()),
        "utility": pa.array(selection.utility, pa.float64(), from_pandas=True),
    }
    influence = _task_influence(selection, scores, tasks)
    for name in names:
        columns[name] = pa.array(influence.get(name, np.full(order.size, np.nan)), pa.float64(), from_pandas=True)
    return pa.table(columns)


def _task_influence(selection: Selection, scores: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """task -> (B,) mean raw influence of the selected rows over the task's columns that the selection could use."""
    kept = np.setdiff1d(np.arange(scores.shape[1]), selection.dropped_columns)
    nothing = np.zeros(kept.size)
    # the selection says what is usable: no pass over the matrix is needed to find that out again
    view = ScoreView(scores, np.arange(scores.shape[0]), kept, nothing, nothing)
    by_task = TaskColumns(view, tasks)
    means = np.empty((selection.order.size, len(by_task.names)))
    for part, values in raw_blocks(view, selection.order):
        means[part] = by_task.means(values)
    return dict(zip(by_task.names, means.T, strict=True))


def _end_mean(view: ScoreView, selection: Selection) -> np.ndarray:
    """(m,) mean of the selection's rows."""
    if not selection.order.size:
        raise SelectionError("the selection is empty; there is nothing to compare the row with")
    positions = positions_of(view, selection.order)
    return sum(values.sum(axis=0) for _, values in z_blocks(view, positions)) / positions.size
