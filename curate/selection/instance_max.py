"""Instance-max: rows by the largest influence on any one target, raw or as z-scores, and RDS, the same on cosines.

The two ablations of arXiv 2501.12147 ("Unnormalized", "Normalized"): BIDS without the greedy step, one-shot. RDS
takes a matrix of cosine similarities instead of influence. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import open_selection
from curate.selection.normalise import warn_uneven
from curate.selection.result import Selection
from curate.selection.row_scores import row_maximum, take_best


def instance_max(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Rows by their largest raw score over the columns.

    scores: (N, M); budget: rows, a fraction or a `TokenBudget`; constraints: see `Constraints`. `normalize` and `seed`
    are not used; `tasks` only for the warning about unequal counts. target: the lowest column that attains the
    maximum. Raises `SelectionError`.
    """
    return _by_maximum(scores, budget, tasks, constraints, normalize=False)


def instance_max_normalized(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """`instance_max` on z-scores per column, whatever `normalize` says."""
    return _by_maximum(scores, budget, tasks, constraints, normalize=True)


def rds(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Representation similarity: `instance_max` where `scores` holds the cosine of each row with each target."""
    return _by_maximum(scores, budget, tasks, constraints, normalize=False)


def _by_maximum(
    scores: Any, budget: Budget, tasks: Sequence[Any] | None, constraints: Constraints | None, normalize: bool
) -> Selection:
    view, ledger = open_selection(scores, budget, tasks, constraints)
    warn_uneven(tasks, view.columns)
    best, where = row_maximum(view if normalize else view.raw())
    return take_best(view, best, where, ledger)
