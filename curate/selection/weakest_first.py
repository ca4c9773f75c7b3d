"""Weakest-first: each pick serves the target whose mean over the selection is lowest.

This is how the BIDS paper's abstract reads ("most underrepresented task"), while its Algorithm 1 takes the largest
gap; kept as a separate method so that the two readings can be compared. Same lists as BIDS, O(M) per pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import open_selection
from curate.selection.ranking import ColumnHeads
from curate.selection.result import Selection


def weakest_first(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Per pick the column with the lowest mean (0 at the start; ties lowest), then its best free row (ties lowest).

    scores: (N, M); budget: rows, a fraction or a `TokenBudget`; normalize: z-scores or raw; constraints: see
    `Constraints`. `tasks` is only checked, `seed` not used. target: that column; utility: the row's value in it.
    Raises `SelectionError`.
    """
    view, ledger = open_selection(scores, budget, tasks, constraints)
    view, size = view if normalize else view.raw(), ledger.size
    order, target = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    utility = np.empty(size, dtype=np.float64)
    if size == 0:
        return view.result(order, target, utility)
    first = ledger.first.tolist()
    heads = ColumnHeads(view, taken=ledger.blocked)
    sums = np.zeros(view.columns.size)
    pick = 0
    while pick < size:
        weakest = int(np.argmin(sums / pick if pick else sums))
        row = first[pick] if pick < len(first) else int(heads.ids[weakest])
        if row < 0:
            break
        if ledger.take(row):
            values = view.row(row)
            order[pick], target[pick], utility[pick] = row, weakest, values[weakest]
            sums += values
            pick += 1
        heads.refresh()
    ledger.close(pick)
    return view.result(order[:pick], target[:pick], utility[:pick])
