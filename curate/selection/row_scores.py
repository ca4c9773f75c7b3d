"""Row scores that the simple baselines rank by, accumulated piece by piece so that the matrix is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.ledger import ConstrainedLedger, Ledger
from curate.selection.normalise import ScoreView, SelectionError
from curate.selection.ranking import leading
from curate.selection.result import Selection


def row_maximum(view: ScoreView) -> tuple[np.ndarray, np.ndarray]:
    """(n,) largest value of each row and (n,) position of the lowest column that attains it."""
    best = np.full(view.rows.size, -np.inf)
    where = np.zeros(view.rows.size, dtype=np.int64)
    for start, position, values in view.map_pieces(as_it_is):
        _raise(best[start : start + values.size], where[start : start + values.size], values, position)
    return best, where


def task_means(view: ScoreView, tasks: Sequence[Any]) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Per task its mean over columns and its best column, for every row.

    tasks: (M,) labels of all columns, dropped ones too. Returns the labels in order of first appearance among the
    usable columns, (T, n) means, and (T, n) positions of each task's largest column (the lowest on ties).
    """
    labels = [tasks[column] for column in view.columns]
    names = list(dict.fromkeys(labels))
    index = {name: number for number, name in enumerate(names)}
    shape = (len(names), view.rows.size)
    sums, best, where = np.zeros(shape), np.full(shape, -np.inf), np.zeros(shape, dtype=np.int64)
    for start, position, values in view.map_pieces(as_it_is):
        task, rows = index[labels[position]], slice(start, start + values.size)
        sums[task, rows] += values
        _raise(best[task, rows], where[task, rows], values, position)
    counts = np.array([labels.count(name) for name in names], dtype=np.float64)
    return names, sums / counts[:, None], where


def row_sums(view: ScoreView) -> np.ndarray:
    """(n,) sum of each row, added in column order."""
    sums = np.zeros(view.rows.size)
    for start, _, values in view.map_pieces(as_it_is):
        sums[start : start + values.size] += values
    return sums


def as_it_is(start: int, position: int, values: np.ndarray) -> np.ndarray:
    return values


def _raise(best: np.ndarray, where: np.ndarray, values: np.ndarray, position: int) -> None:
    """Put `values` and their column where they are above the best so far."""
    better = values > best
    best[better] = values[better]
    where[better] = position


def take_best(view: ScoreView, score: np.ndarray, where: np.ndarray, ledger: Ledger | int) -> Selection:
    """The rows with the largest (n,) score that the ledger takes, ties to the lowest row; `where` gives each row's
    target. An int is a ledger of that many rows without constraints."""
    if isinstance(ledger, int):
        ledger = Ledger(view.rows.size, ledger)
    constrained = isinstance(ledger, ConstrainedLedger)
    order = ledger.fill(leading(score, score.size if constrained else ledger.size))
    return view.result(order, where[order], score[order])


def require_tasks(tasks: Sequence[Any] | None, method: str) -> Sequence[Any]:
    if tasks is None:
        raise SelectionError(f"{method} works per task: pass tasks=, one label per column of scores")
    return tasks
