"""BM25: rows by their best text match with any one target.

BM25 grows with the number of words in the target, so the raw maximum is decided by the longest targets (on the demo
94 % of the picks serve the task with the longest); by default each column is brought to z-scores first. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.selection.constraints import Budget, Constraints
from curate.selection.instance_max import instance_max, instance_max_normalized
from curate.selection.result import Selection


def bm25(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """`instance_max_normalized` where `scores` holds the BM25 of each row for each target; raw without `normalize`."""
    method = instance_max_normalized if normalize else instance_max
    return method(scores, budget, tasks=tasks, constraints=constraints)
