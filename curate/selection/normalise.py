"""What of a score matrix can be used, and its z-scores.

z = (x - mean) / std per column (BIDS, arXiv 2501.12147, section on normalisation), in float64, with mean and deviation
as in `moments`. Only a panel of the matrix and a few columns in float64 are ever held; opening a matrix is one pass
over it, two if rows have to be left out.

Unusable (spec section 3): a column without any finite value is dropped first, since it says nothing about any row;
then a row with NaN or infinity in another column is excluded; then a column that is constant over the remaining rows,
or whose deviation is zero or overflows, is dropped.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from curate.records import DataError
from curate.selection.columns import map_columns, turned
from curate.selection.moments import Moments
from curate.selection.result import Selection
from curate.selection.sharded import ShardedScores

BLOCK_BYTES = 128 * 2**20

T = TypeVar("T")


class SelectionError(DataError):
    """Scores, budget or tasks that no selection can be made from."""


class SelectionWarning(UserWarning):
    """Something was left out, or a comparison is lopsided; the selection goes on."""


@dataclass(frozen=True, eq=False)
class ScoreView:
    """The usable part of a score matrix, read as z-scores, or raw after `raw()`.

    scores: (N, M) array or `ShardedScores`. rows: (n,) int64 and columns: (m,) int64, the usable indices, ascending.
    mean, std: (m,) float64. Positions in the methods below run over the usable rows and columns, 0..n-1 and 0..m-1.
    """

    scores: Any
    rows: np.ndarray
    columns: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def raw(self) -> ScoreView:
        """The same rows and columns without normalisation: x - 0 and x / 1 are exact."""
        return replace(self, mean=np.zeros_like(self.mean), std=np.ones_like(self.std))

    def column(self, position: int) -> np.ndarray:
        """(n,) float64 values of one column."""
        values = np.array(self.scores[:, self.columns[position]], dtype=np.float64)
        return self._scaled(values if self.rows.size == values.size else values[self.rows], position)

    def row(self, position: int) -> np.ndarray:
        """(m,) float64 values of one row, the same bits as in `column`."""
        values = np.array(self.scores[self.rows[position]], dtype=np.float64)
        if self.columns.size < values.size:
            values = values[self.columns]
        values -= self.mean
        values /= self.std
        return values

    def iter_columns(self, block_columns: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(position, (n,) float64 values) of every column, whole; see `iter_columns`."""
        for position, values in iter_columns(self.scores, self.columns, block_columns):
            yield position, self._scaled(values if self.rows.size == values.size else values[self.rows], position)

    def map_pieces(
        self, work: Callable[[int, int, np.ndarray], T], block_columns: int | None = None
    ) -> Iterator[tuple[int, int, T]]:
        """`work(start, position, values)` on every column in pieces of rows, in one pass and in threads; yields
        (start, position, its answer), for the first rows all columns in order, then for the next.

        values: float64, of the consecutive row positions from `start` on.
        """
        every = self.rows.size == self.scores.shape[0]

        def scaled(start: int, position: int, raw: np.ndarray) -> tuple[int, T]:
            values = raw.astype(np.float64)
            if not every:
                first, last = np.searchsorted(self.rows, (start, start + raw.size))
                values, start = values[self.rows[first:last] - start], int(first)
            return start, work(start, position, self._scaled(values, position))

        for _, position, (start, answer) in map_columns(self.scores, self.columns, scaled, block_columns):
            yield start, position, answer

    def _scaled(self, values: np.ndarray, position: int) -> np.ndarray:
        """`values`, a float64 copy of its own, turned into z-scores in place."""
        values -= self.mean[position]
        values /= self.std[position]
        return values

    def result(self, order: np.ndarray, target: np.ndarray, utility: np.ndarray) -> Selection:
        """A `Selection` in the matrix's own indices, from positions of this view."""
        n_rows, n_columns = self.scores.shape
        return Selection(
            order=self.rows[order],
            target=self.columns[target],
            utility=np.asarray(utility, dtype=np.float64),
            excluded_rows=missing(self.rows, n_rows),
            dropped_columns=missing(self.columns, n_columns),
        )


def iter_columns(
    scores: Any, columns: np.ndarray, block_columns: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(position, (N,) float64 copy) of the given ascending columns, whole, read `BLOCK_BYTES` at a time.

    Above `PANEL_ROWS` rows `ScoreView.map_pieces` reads the matrix far fewer times.
    """
    n_rows = scores.shape[0]
    width = block_columns or max(1, BLOCK_BYTES // (scores.dtype.itemsize * max(1, n_rows)))
    for start in range(0, columns.size, width):
        for offset, values in enumerate(turned(scores, 0, n_rows, columns[start : start + width])):
            yield start + offset, values.astype(np.float64)


def as_matrix(scores: Any) -> Any:
    """`scores` as a two-dimensional real array or `ShardedScores`, without copying an array or a memory map."""
    # the bare array behind a memory map: the map's own indexing takes longer than reading a row
    matrix = scores if isinstance(scores, ShardedScores) else np.asarray(scores)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise SelectionError(f"scores must be a real (rows, targets) matrix, got {matrix.dtype} {matrix.shape}")
    return matrix


def open_view(scores: Any, tasks: Sequence[Any] | None = None, block_columns: int | None = None) -> ScoreView:
    """The usable part of `scores`, perhaps without any column; warns about what is left out. Raises `SelectionError`:
    wrong shape, tasks not (M,)."""
    matrix = as_matrix(scores)
    if tasks is not None and len(tasks) != matrix.shape[1]:
        raise SelectionError(f"tasks has {len(tasks)} labels for {matrix.shape[1]} columns; give one per target")
    return usable(matrix, block_columns)


def require_columns(view: ScoreView) -> None:
    """Raises `SelectionError` if no column can be used."""
    if not view.columns.size:
        raise SelectionError(
            f"none of the {view.scores.shape[1]} target columns can be used: with {view.rows.size} usable rows all are "
            "constant or not finite; check the attribution"
        )


def usable(matrix: Any, block_columns: int | None = None) -> ScoreView:
    """Rows and columns that can be used, with the columns' mean and deviation; warns about the others."""
    n_rows, n_columns = matrix.shape
    rows, candidates = np.arange(n_rows), np.arange(n_columns)
    holes, moments = _survey(matrix, rows, candidates, block_columns)
    dead = [column for column, where in holes.items() if where.size == n_rows]
    if holes:
        candidates = np.delete(candidates, dead)
        broken = [where for column, where in holes.items() if where.size < n_rows]
        rows = np.delete(rows, np.unique(np.concatenate(broken))) if broken else rows
        if broken:
            _, moments = _survey(matrix, rows, candidates, block_columns)
    kept = [c for c in candidates if math.isfinite(moments[c].mean) and 0 < moments[c].std < math.inf]
    columns = np.array(kept, dtype=np.int64)
    _warn("row(s) with NaN or infinity excluded", missing(rows, n_rows))
    _warn("constant or non-finite column(s) dropped", missing(columns, n_columns))
    mean_std = np.array([(moments[c].mean, moments[c].std) for c in kept], dtype=np.float64).reshape(-1, 2)
    return ScoreView(matrix, rows, columns, mean_std[:, 0].copy(), mean_std[:, 1].copy())


def _survey(
    matrix: Any, rows: np.ndarray, columns: np.ndarray, block_columns: int | None
) -> tuple[dict[int, np.ndarray], list[Moments]]:
    """Over the given rows: per column with NaN or infinity the rows where, and every matrix column's moments."""
    every = rows.size == matrix.shape[0]

    def look(start: int, position: int, raw: np.ndarray) -> tuple[np.ndarray | None, Moments]:
        values = raw.astype(np.float64)
        if not every:
            first, last = np.searchsorted(rows, (start, start + raw.size))
            values = values[rows[first:last] - start]
        finite = np.isfinite(values)
        if finite.all():
            return None, Moments.of(values)
        return start + np.flatnonzero(~finite), Moments.of(values[:0])

    holes: dict[int, list[np.ndarray]] = {}
    moments = [Moments.of(np.empty(0))] * matrix.shape[1]
    for _, position, (where, found) in map_columns(matrix, columns, look, block_columns):
        column = int(columns[position])
        moments[column] = moments[column].joined(found)
        if where is not None:
            holes.setdefault(column, []).append(where)
    return {column: np.concatenate(where) for column, where in holes.items()}, moments


def rows_to_select(budget: int | float, view: ScoreView) -> int:
    """The budget in rows; `SelectionError` if it is more than the usable rows."""
    n_rows = view.scores.shape[0]
    size = resolve_budget(budget, n_rows)
    if size > view.rows.size:
        raise SelectionError(
            f"budget {size} is more than the {view.rows.size} usable rows (of {n_rows}); lower the budget"
        )
    return size


def resolve_budget(budget: int | float, n_rows: int) -> int:
    """Rows to select: `budget` itself, or floor(f * n_rows) for a float fraction f in [0, 1], exact in decimal."""
    if isinstance(budget, float | np.floating):
        if not 0 <= budget <= 1:
            raise SelectionError(f"budget {budget} is not a fraction from 0 to 1; write a number of rows as an integer")
        # 0.29 * 100 is 28.999...; the decimal that the user wrote is what counts.
        return math.floor(Fraction(str(budget)) * n_rows)
    try:
        size = operator.index(budget)
    except TypeError:
        raise SelectionError(f"budget {budget!r} is neither an integer nor a fraction") from None
    if isinstance(budget, bool) or size < 0:
        raise SelectionError(f"budget {budget} must be an integer of at least 0, or a fraction from 0 to 1")
    return size


def warn_uneven(tasks: Sequence[Any] | None, columns: np.ndarray) -> None:
    """Warn when tasks own different numbers of usable columns: the larger gets more chances to win."""
    counts = Counter(str(tasks[column]) for column in columns) if tasks is not None else Counter()
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{task} {count}" for task, count in sorted(counts.items()))
        warnings.warn(f"unequal columns per task ({listed}); more columns, more wins", SelectionWarning, stacklevel=3)


def missing(present: np.ndarray, total: int) -> tuple[int, ...]:
    """The indices below `total` that are not in `present`, ascending."""
    absent = np.ones(total, dtype=bool)
    absent[present] = False
    return tuple(int(index) for index in np.flatnonzero(absent))


def _warn(what: str, indices: tuple[int, ...]) -> None:
    if indices:
        shown = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
        warnings.warn(f"{len(indices)} {what}: {shown}", SelectionWarning, stacklevel=5)
