"""What a growing budget brings to each task, along the order of a selection.

Three figures per task and budget b, all over the first b picks:
  influence   mean over the task's targets of the normalised AID (mean z-score of the picks): how much the average pick
              helps. It falls as the budget grows, since the best rows go first.
  recall      mean over the targets of the share of the target's top rows that are in; top rows: the best 1 % of the
              pool for that target. It rises to 1, and cannot exceed b / (1 % of the pool).
  reached     share of the targets for which at least one top row is in.
One pass over the columns for the top rows (once per matrix), one over the selected rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.selection.explain.blocks import TaskColumns, open_view, positions_of, z_blocks
from curate.selection.normalise import ScoreView
from curate.selection.ranking import leading

TOP_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Coverage:
    """budgets: (P,) ascending, the last is the whole selection; tasks: T labels; influence, recall, reached: (P, T)."""

    budgets: np.ndarray
    tasks: list[Any]
    influence: np.ndarray
    recall: np.ndarray
    reached: np.ndarray


def top_rows(scores: np.ndarray | ScoreView, share: float = TOP_SHARE) -> np.ndarray:
    """(m, k) positions of each usable column's k best usable rows, k = `share` of them and at least 1, ties to the
    lowest row. O(N * M)."""
    view = open_view(scores)
    count = max(1, int(share * view.rows.size))
    tops = np.empty((view.columns.size, count), dtype=np.int64)
    for position, values in view.iter_columns():
        tops[position] = leading(values, count)
    return tops


def coverage(
    scores: np.ndarray | ScoreView,
    order: np.ndarray,
    tasks: Sequence[Any],
    *,
    tops: np.ndarray | None = None,
    points: int = 100,
) -> Coverage:
    """Coverage of each task at no more than `points` budgets, evenly spaced up to the whole selection.

    order: (B,) row indices, best first; tasks: (M,) labels; tops: `top_rows` of the same scores, if at hand. Raises
    `SelectionError` for an unusable row.
    """
    view = open_view(scores)
    columns = TaskColumns(view, tasks)
    positions = positions_of(view, order)
    size = positions.size
    budgets = np.unique(np.linspace(1, size, min(points, size)).round().astype(np.int64))
    tops = top_rows(view) if tops is None else tops

    rank = np.full(view.rows.size, size)
    rank[positions] = np.arange(size)
    ranks = np.sort(rank[tops], axis=1)
    recall = np.stack([np.searchsorted(of_target, budgets) for of_target in ranks], axis=1) / tops.shape[1]

    influence = np.empty((budgets.size, view.columns.size))
    total = np.zeros(view.columns.size)
    for part, values in z_blocks(view, positions):
        sums = total + values.cumsum(axis=0)
        inside = (budgets > part.start) & (budgets <= part.stop)
        influence[inside] = sums[budgets[inside] - 1 - part.start] / budgets[inside, None]
        total = sums[-1]
    return Coverage(
        budgets, columns.names, columns.means(influence), columns.means(recall), columns.means((recall > 0) * 1.0)
    )
