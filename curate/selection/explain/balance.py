"""How evenly a set of rows serves the tasks: AID and THI of arXiv 2501.12147.

AID, the average influence distribution, is the mean influence of the set on every target; THI, the number of rows
whose strongest task is t, has two definitions there (by task mean in the section on LESS, by the single strongest
target in the section on BIDS) and neither says on which scale, so all four are counted, in one pass over the rows.
Only columns that `usable` keeps enter; the others come out as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curate.selection.explain.blocks import TaskColumns, open_view, positions_of, raw_blocks
from curate.selection.normalise import ScoreView

Definition = Literal["instance", "task_mean"]


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
class Balance:
    """AID and THI of `rows` rows, on z-scores and in raw units; THI: definition -> task -> count."""

    rows: int
    normalised: InfluenceProfile
    raw: InfluenceProfile
    strongest_normalised: dict[Definition, dict[Any, int]]
    strongest_raw: dict[Definition, dict[Any, int]]


def balance(scores: np.ndarray | ScoreView, rows: np.ndarray | None, tasks: Sequence[Any]) -> Balance:
    """AID and THI of the row indices `rows` (None: all usable rows); `tasks`: (M,) labels.

    Ties of THI go to the first task or the lowest column. Raises `SelectionError` for an unusable row. O(|rows| * M).
    """
    view = open_view(scores)
    columns = TaskColumns(view, tasks)
    positions = positions_of(view, view.rows if rows is None else rows)
    sums = np.zeros((2, view.columns.size))
    counts = np.zeros((2, 2, len(columns.names)), dtype=np.int64)
    for _, raw in raw_blocks(view, positions):
        for scale, values in enumerate(((raw - view.mean) / view.std, raw)):
            sums[scale] += values.sum(axis=0)
            winners = (columns.of_column[values.argmax(axis=1)], columns.means(values).argmax(axis=1))
            for definition, winner in enumerate(winners):
                counts[scale, definition] += np.bincount(winner, minlength=len(columns.names))
    normalised, raw_profile = (_profile(view, columns, total / positions.size) for total in sums)
    definitions: tuple[Definition, Definition] = ("instance", "task_mean")
    thi = [
        {
            name: dict(zip(columns.names, found.tolist(), strict=True))
            for name, found in zip(definitions, of, strict=True)
        }
        for of in counts
    ]
    return Balance(positions.size, normalised, raw_profile, *thi)


def average_influence(
    scores: np.ndarray | ScoreView, rows: np.ndarray, tasks: Sequence[Any], *, normalize: bool = True
) -> InfluenceProfile:
    """AID_j = mean over the row indices `rows` of X[i, j]; X is Z, or the raw scores."""
    found = balance(scores, rows, tasks)
    return found.normalised if normalize else found.raw


def strongest_tasks(
    scores: np.ndarray | ScoreView,
    rows: np.ndarray,
    tasks: Sequence[Any],
    *,
    by: Definition = "instance",
    normalize: bool = True,
) -> dict[Any, int]:
    """THI: how many of `rows` have task t as their strongest; report which definition is shown.

    by="task_mean": largest mean over the task's columns (the paper's section on LESS, there on raw scores,
    `normalize=False`); by="instance": the task of the largest column (its section on BIDS).
    """
    found = balance(scores, rows, tasks)
    return (found.strongest_normalised if normalize else found.strongest_raw)[by]


def imbalance_ratio(counts: dict[Any, int]) -> float:
    """Largest over smallest count; infinity when a task has none."""
    lowest = min(counts.values())
    return max(counts.values()) / lowest if lowest else math.inf


def _profile(view: ScoreView, columns: TaskColumns, means: np.ndarray) -> InfluenceProfile:
    per_target = np.full(view.scores.shape[1], np.nan)
    per_target[view.columns] = means
    per_task = columns.means(means)
    return InfluenceProfile(
        per_target,
        dict(zip(columns.names, per_task.tolist(), strict=True)),
        float(per_task.std()),
        float(means.min()),
        float(means.max()),
    )
