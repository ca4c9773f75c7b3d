"""Random: a seeded subset, the control that every method has to beat.

A permutation of all rows is drawn and unusable rows are skipped, so that a smaller budget gives a prefix and one row
more or less in the exclusions does not reshuffle the rest. The paper's value is the mean of two seeds. O(N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from curate.selection.normalise import as_matrix, rows_to_select, usable
from curate.selection.result import NO_TARGET, Selection


def random_subset(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """The first `budget` usable rows of a permutation of all N rows drawn from `seed`.

    scores: (N, M), looked at only for rows that no other method could take either; budget: rows or a fraction.
    `normalize` and `tasks` are not used. target is `NO_TARGET` and utility NaN: nothing was compared. Raises
    `SelectionError`.
    """
    view = usable(as_matrix(scores))
    size = rows_to_select(budget, view)
    permutation = np.random.default_rng(seed).permutation(view.scores.shape[0])
    order = permutation[np.isin(permutation, view.rows)][:size]
    nothing = view.result(*(np.empty(0, dtype=np.int64),) * 3)
    return replace(nothing, order=order, target=np.full(size, NO_TARGET), utility=np.full(size, np.nan))
