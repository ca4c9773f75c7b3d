"""Instance-max: rows by the largest influence on any one target, raw or as z-scores, and RDS, the same on cosines.

The two ablations of arXiv 2501.12147 ("Unnormalized", "Normalized"): BIDS without the greedy step, one-shot. RDS
takes a matrix of cosine similarities instead of influence. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.normalise import open_scores, warn_uneven
from curate.selection.result import Selection
from curate.selection.row_scores import row_maximum, take_best


def instance_max(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """Rows by their largest raw score over the columns.

    scores: (N, M); budget: rows or a fraction. `normalize` and `seed` are not used; `tasks` only for the warning
    about unequal counts. target: the lowest column that attains the maximum. Raises `SelectionError`.
    """
    return _by_maximum(scores, budget, tasks, normalize=False)


def instance_max_normalized(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """`instance_max` on z-scores per column, whatever `normalize` says."""
    return _by_maximum(scores, budget, tasks, normalize=True)


def rds(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """Representation similarity: `instance_max` where `scores` holds the cosine of each row with each target."""
    return _by_maximum(scores, budget, tasks, normalize=False)


def _by_maximum(scores: np.ndarray, budget: int | float, tasks: Sequence[Any] | None, normalize: bool) -> Selection:
    view, size = open_scores(scores, budget, tasks)
    warn_uneven(tasks, view.columns)
    best, where = row_maximum(view if normalize else view.raw())
    return take_best(view, best, where, size)
