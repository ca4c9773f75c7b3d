"""Random: a seeded subset, the control that every method has to beat.

A permutation of all rows is drawn and unusable rows are skipped, so that a smaller budget gives a prefix and one row
more or less in the exclusions does not reshuffle the rest. The paper's value is the mean of two seeds. O(N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import open_ledger
from curate.selection.normalise import as_matrix, usable
from curate.selection.result import NO_TARGET, Selection


def random_subset(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """The first `budget` usable rows of a permutation of all N rows drawn from `seed`.

    scores: (N, M), looked at only for rows that no other method could take either; budget: rows, a fraction or a
    `TokenBudget`; constraints: see `Constraints`, rows that they do not allow are skipped. `normalize` and `tasks` are
    not used. target is `NO_TARGET` and utility NaN: nothing was compared. Raises `SelectionError`.
    """
    view = usable(as_matrix(scores))
    ledger = open_ledger(view, budget, constraints)
    permutation = np.random.default_rng(seed).permutation(view.scores.shape[0])
    ranking = np.searchsorted(view.rows, permutation[np.isin(permutation, view.rows)])
    order = view.rows[ledger.fill(ranking)]
    nothing = view.result(*(np.empty(0, dtype=np.int64),) * 3)
    return replace(nothing, order=order, target=np.full(order.size, NO_TARGET), utility=np.full(order.size, np.nan))
