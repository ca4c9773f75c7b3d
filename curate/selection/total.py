"""Sum: rows by the sum of their raw influence over all targets (a baseline of arXiv 2501.12147).

The plainest use of an attribution matrix; blind to which target gains. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.normalise import open_scores
from curate.selection.result import Selection
from curate.selection.row_scores import row_maximum, take_best


def total(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """Rows by the float64 sum of raw scores over the columns, added in column order.

    scores: (N, M); budget: rows or a fraction. `normalize` and `seed` are not used, `tasks` only checked.
    target: the row's largest raw column. Raises `SelectionError`.
    """
    view, size = open_scores(scores, budget, tasks)
    view = view.raw()
    sums = np.zeros(view.rows.size)
    for _, values in view.iter_columns():
        sums += values
    return take_best(view, sums, row_maximum(view)[1], size)
