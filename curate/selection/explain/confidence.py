"""How sure a selection is: the targets are a sample, so draw them again and see which rows are still chosen.

Bootstrap within each task (a task's targets stand for more of its kind; the set of tasks is fixed by design): as many
of the task's columns as it has, with replacement. The method is run again on the drawn columns, and a row's
confidence is the share of resamples in which it is chosen. Cost: one run of the method per resample and about 0.6 of
a float32 copy of the matrix; the matrix itself where the method averages over columns.

A target is missing from (1 - 1/m)^m, about 36 %, of the draws of a task with m targets, so a row that one target
alone speaks for is chosen in some 64 % of them: read the shares against that.

Limits: the scores are taken as they are (neither the model nor the warmup is resampled), and a handful of targets per
task cannot show what no target of the kind shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.selection.normalise import SelectionError, SelectionWarning, as_matrix
from curate.selection.result import NO_TARGET, Selection

RESAMPLES = 50
# Methods that only ever compare single columns: a column drawn twice changes no maximum and no minimum.
BY_COLUMN = frozenset({"bids", "weakest_first", "instance_max", "instance_max_normalized", "rds", "bm25"})
Selector = Callable[[np.ndarray, list[Any]], Selection]


@dataclass(frozen=True)
class Spread:
    """Mean over the resamples, and the interval from the 2.5th to the 97.5th percentile of single resamples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Confidence:
    """share: (N,) float64 share of resamples in which each row is chosen; overlap: (R,) share of the selection that
    each resample chooses again; jaccard: (R,) rows in both over rows in either.

    Where nothing can be resampled share is None, the others are empty and `reason` says why.
    """

    share: np.ndarray | None
    overlap: np.ndarray
    jaccard: np.ndarray
    reason: str = ""

    def spread(self) -> dict[str, Spread]:
        return {name: _spread(values) for name, values in (("overlap", self.overlap), ("jaccard", self.jaccard))}


def selection_confidence(
    select: Selector,
    scores: np.ndarray,
    selection: Selection,
    tasks: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    by_column: bool = False,
) -> Confidence:
    """Choose again on `resamples` draws of the targets.

    select(scores, tasks): the method with its budget and constraints; selection: what it chose from `scores` (N, M);
    tasks: (M,) labels; by_column: the method compares single columns only (`BY_COLUMN`), so each drawn column is
    passed once: the same result, a smaller matrix. The method's warnings were given for the selection itself and are
    not repeated.
    """
    nothing = np.empty(0)
    matrix = as_matrix(scores)
    if len(tasks) != matrix.shape[1]:
        raise SelectionError(f"tasks has {len(tasks)} labels for {matrix.shape[1]} columns; give one per target")
    if (selection.target == NO_TARGET).all():
        return Confidence(None, nothing, nothing, "the method does not look at the targets")
    if len(set(tasks)) == len(tasks):
        return Confidence(None, nothing, nothing, "every task has a single column: there is nothing to draw from")
    counts = np.zeros(matrix.shape[0], dtype=np.int64)
    chosen = np.zeros(matrix.shape[0], dtype=bool)
    chosen[selection.order] = True
    overlap, jaccard = np.empty(resamples), np.empty(resamples)
    for number, drawn in enumerate(resampled_columns(tasks, resamples, seed)):
        columns = np.unique(drawn) if by_column else drawn
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SelectionWarning)
            again = select(matrix[:, columns], [tasks[column] for column in columns]).order
        counts[again] += 1
        both = int(chosen[again].sum())
        overlap[number] = both / selection.order.size
        jaccard[number] = both / (selection.order.size + again.size - both)
    return Confidence(counts / resamples, overlap, jaccard)


def resampled_columns(tasks: Sequence[Any], resamples: int, seed: int) -> np.ndarray:
    """(R, M) column indices: per task as many draws with replacement as it has columns.

    Each resample is in the matrix's column order, so that tasks keep their turns and ties their lowest column.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(members, size=(resamples, members.size))
        for task in dict.fromkeys(tasks)
        if (members := np.flatnonzero([label == task for label in tasks])).size
    ]
    return np.sort(np.concatenate(drawn, axis=1), axis=1)


def _spread(values: np.ndarray) -> Spread:
    low, high = np.percentile(values, [2.5, 97.5])
    return Spread(float(values.mean()), float(low), float(high))
