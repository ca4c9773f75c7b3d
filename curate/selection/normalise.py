"""What of a score matrix can be used, and its z-scores, computed in one place so that every method sees the same
bits.

Each column is brought to a contiguous float64 vector and reduced alone, so neither the block width nor the memory
layout changes a bit. Mean: two passes (the mean, then the mean of what it leaves). Deviation: ddof 1 around that
mean. z = (x - mean) / std (BIDS, arXiv 2501.12147, section on normalisation). Only a block of columns is ever held in
float64; opening a matrix costs two passes over it.

Unusable (spec section 3): a column without any finite value is dropped first, since it says nothing about any row;
then a row with NaN or infinity in another column is excluded; then a column that is constant over the remaining rows,
or whose deviation is zero or overflows, is dropped.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from curate.records import DataError
from curate.selection.result import Selection

BLOCK_BYTES = 128 * 2**20


class SelectionError(DataError):
    """Scores, budget or tasks that no selection can be made from."""


class SelectionWarning(UserWarning):
    """Something was left out, or a comparison is lopsided; the selection goes on."""


@dataclass(frozen=True, eq=False)
class ScoreView:
    """The usable part of a score matrix, read as z-scores, or raw after `raw()`.

    scores: (N, M). rows: (n,) int64 and columns: (m,) int64, the usable indices, ascending. mean, std: (m,) float64.
    Positions in the methods below run over the usable rows and columns, 0..n-1 and 0..m-1.
    """

    scores: np.ndarray
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
        return self._scaled(values, position)

    def row(self, position: int) -> np.ndarray:
        """(m,) float64 values of one row, the same bits as in `column`."""
        values = np.array(self.scores[self.rows[position]], dtype=np.float64)
        if self.columns.size < values.size:
            values = values[self.columns]
        return (values - self.mean) / self.std

    def iter_columns(self, block_columns: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(position, (n,) float64 values) of every column, reading the matrix block by block."""
        for position, values in iter_columns(self.scores, self.columns, block_columns):
            yield position, self._scaled(values, position)

    def _scaled(self, values: np.ndarray, position: int) -> np.ndarray:
        if self.rows.size < values.size:
            values = values[self.rows]
        return (values - self.mean[position]) / self.std[position]

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
    scores: np.ndarray, columns: np.ndarray, block_columns: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(position, (N,) contiguous float64 copy) of the given ascending columns, at most `BLOCK_BYTES` at a time."""
    width = block_columns or max(1, BLOCK_BYTES // (8 * max(1, scores.shape[0])))
    for start in range(0, columns.size, width):
        chosen = columns[start : start + width]
        block = np.array(scores[:, chosen[0] : chosen[-1] + 1].T, dtype=np.float64, order="C")
        for offset, column in enumerate(chosen):
            yield start + offset, block[column - chosen[0]]


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Two-pass mean and ddof-1 deviation of a contiguous float64 vector; deviation 0 if constant, NaN if shorter than
    2."""
    if values.size < 2:
        return (float(values[0]) if values.size else math.nan), math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean()
        mean += (values - mean).mean()
        # A constant such as 0.1 does not always equal its computed mean, so equality is asked of the values.
        if values.min() == values.max():
            return float(mean), 0.0
        residual = values - mean
        return float(mean), float(np.sqrt(np.square(residual).sum() / (values.size - 1)))


def as_matrix(scores: Any) -> np.ndarray:
    """`scores` as a two-dimensional real array, without copying an array or a memory map."""
    matrix = scores if isinstance(scores, np.ndarray) else np.asarray(scores)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise SelectionError(f"scores must be a real (rows, targets) matrix, got {matrix.dtype} {matrix.shape}")
    return matrix


def open_scores(
    scores: Any, budget: int | float, tasks: Sequence[Any] | None = None, block_columns: int | None = None
) -> tuple[ScoreView, int]:
    """The usable part of `scores` and the budget in rows; warns about what is left out.

    Raises `SelectionError`: wrong shape, budget below 0 or above the usable rows, tasks not (M,), no usable column.
    """
    matrix = as_matrix(scores)
    if tasks is not None and len(tasks) != matrix.shape[1]:
        raise SelectionError(f"tasks has {len(tasks)} labels for {matrix.shape[1]} columns; give one per target")
    view = usable(matrix, block_columns)
    size = rows_to_select(budget, view)
    if size and not view.columns.size:
        raise SelectionError(
            f"none of the {matrix.shape[1]} target columns can be used: with {view.rows.size} usable rows all are "
            "constant or not finite; check the attribution"
        )
    return view, size


def usable(matrix: np.ndarray, block_columns: int | None = None) -> ScoreView:
    """Rows and columns that can be used, with the columns' mean and deviation; warns about the others."""
    n_rows, n_columns = matrix.shape
    finite_rows = np.ones(n_rows, dtype=bool)
    candidates = []
    for position, values in iter_columns(matrix, np.arange(n_columns), block_columns):
        finite = np.isfinite(values)
        if finite.any():
            candidates.append(position)
            finite_rows &= finite
    rows = np.flatnonzero(finite_rows)
    kept, statistics = [], []
    chosen = np.array(candidates, dtype=np.int64)
    for position, values in iter_columns(matrix, chosen, block_columns):
        mean, std = mean_and_std(values if rows.size == n_rows else values[rows])
        if math.isfinite(mean) and math.isfinite(std) and std > 0:
            kept.append(int(chosen[position]))
            statistics.append((mean, std))
    columns = np.array(kept, dtype=np.int64)
    _warn("row(s) with NaN or infinity excluded", missing(rows, n_rows))
    _warn("constant or non-finite column(s) dropped", missing(columns, n_columns))
    mean_std = np.array(statistics, dtype=np.float64).reshape(-1, 2)
    return ScoreView(matrix, rows, columns, mean_std[:, 0].copy(), mean_std[:, 1].copy())


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
        warnings.warn(f"{len(indices)} {what}: {shown}", SelectionWarning, stacklevel=4)
