"""The usable part of a score matrix, read some rows at a time.

What explains a selection asks for rows (the selected ones, or all), where the methods ask for columns; at 288,579 x
350 a float64 copy would be 0.8 GB, a block is 32 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from curate.selection.normalise import ScoreView, SelectionError, as_matrix, usable

BLOCK_BYTES = 32 * 2**20


def open_view(scores: Any) -> ScoreView:
    """`scores` with its usable rows and columns; as it is if it has been opened before."""
    return scores if isinstance(scores, ScoreView) else usable(as_matrix(scores))


def positions_of(view: ScoreView, rows: np.ndarray) -> np.ndarray:
    """Positions in the view of row indices of the matrix. Raises `SelectionError` for none, or an unusable one."""
    rows = np.asarray(rows, dtype=np.int64)
    if not rows.size or not view.columns.size:
        raise SelectionError("no rows, or no usable columns, to describe")
    known = np.isin(rows, view.rows)
    if not known.all():
        raise SelectionError(
            f"row {rows[~known][0]} is not among the usable rows: it is out of range or holds NaN or infinity"
        )
    return np.searchsorted(view.rows, rows)


def raw_blocks(
    view: ScoreView, positions: np.ndarray | None = None, block_rows: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """(slice of `positions`, (b, m) float64 raw values) in the order of `positions`; None: every usable row."""
    rows = view.rows if positions is None else view.rows[positions]
    width = block_rows or max(1, BLOCK_BYTES // (8 * max(1, view.columns.size)))
    for start in range(0, rows.size, width):
        part = slice(start, min(start + width, rows.size))
        wanted = rows[part]
        # a slice reads shards and memory maps in one go, single rows one by one
        together = wanted[-1] - wanted[0] + 1 == wanted.size and (np.diff(wanted) == 1).all()
        key = slice(wanted[0], wanted[-1] + 1) if together else wanted
        values = np.asarray(view.scores[key], dtype=np.float64)
        yield part, values[:, view.columns] if view.columns.size < values.shape[1] else values


def z_blocks(
    view: ScoreView, positions: np.ndarray | None = None, block_rows: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """`raw_blocks` as z-scores."""
    for part, values in raw_blocks(view, positions, block_rows):
        yield part, (values - view.mean) / view.std


class TaskColumns:
    """The tasks of a view's usable columns. names: labels in order of first appearance; members: per task the (k,)
    column positions; of_column: (m,) number of each column's task."""

    def __init__(self, view: ScoreView, tasks: Sequence[Any]) -> None:
        if len(tasks) != view.scores.shape[1]:
            raise SelectionError(
                f"tasks has {len(tasks)} labels for {view.scores.shape[1]} columns; give one per target"
            )
        labels = [tasks[column] for column in view.columns]
        self.names = list(dict.fromkeys(labels))
        number = {name: task for task, name in enumerate(self.names)}
        self.of_column = np.array([number[label] for label in labels], dtype=np.int64)
        self.members = [np.flatnonzero(self.of_column == task) for task in range(len(self.names))]

    def means(self, values: np.ndarray) -> np.ndarray:
        """(..., T) means over each task's columns of (..., m) values."""
        return np.stack([values[..., members].mean(axis=-1) for members in self.members], axis=-1)
