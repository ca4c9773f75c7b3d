"""Sum: rows by the sum of their raw influence over all targets (a baseline of arXiv 2501.12147).

The plainest use of an attribution matrix; blind to which target gains. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import open_selection
from curate.selection.result import Selection
from curate.selection.row_scores import row_maximum, row_sums, take_best


def total(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Rows by the float64 sum of raw scores over the columns, added in column order.

    scores: (N, M); budget: rows, a fraction or a `TokenBudget`; constraints: see `Constraints`. `normalize` and `seed`
    are not used, `tasks` only checked. target: the row's largest raw column. Raises `SelectionError`.
    """
    view, ledger = open_selection(scores, budget, tasks, constraints)
    view = view.raw()
    return take_best(view, row_sums(view), row_maximum(view)[1], ledger)
