"""Weakest-first: each pick serves the target whose mean over the selection is lowest.

This is how the BIDS paper's abstract reads ("most underrepresented task"), while its Algorithm 1 takes the largest
gap; kept as a separate method so that the two readings can be compared. Same lists as BIDS, O(M) per pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.normalise import open_scores
from curate.selection.ranking import ColumnHeads
from curate.selection.result import Selection


def weakest_first(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """Per pick the column with the lowest mean (0 at the start; ties lowest), then its best unselected row (ties
    lowest).

    scores: (N, M); budget: rows or a fraction; normalize: z-scores or raw. `tasks` is only checked, `seed` not used.
    target: that column; utility: the row's value in it. Raises `SelectionError`.
    """
    view, size = open_scores(scores, budget, tasks)
    view = view if normalize else view.raw()
    order, target = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    utility = np.empty(size, dtype=np.float64)
    if size == 0:
        return view.result(order, target, utility)
    heads = ColumnHeads(view)
    sums = np.zeros(view.columns.size)
    for pick in range(size):
        weakest = int(np.argmin(sums / pick if pick else sums))
        row = int(heads.ids[weakest])
        order[pick], target[pick], utility[pick] = row, weakest, heads.values[weakest]
        sums += view.row(row)
        heads.take(row)
    return view.result(order, target, utility)
