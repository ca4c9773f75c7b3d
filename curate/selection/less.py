"""LESS: rows by the best of their task means (arXiv 2402.04333; "task-max" in the BIDS paper, arXiv 2501.12147).

A row that is good for one whole task is taken, so the tasks whose influence is large in raw units fill the selection;
this is the imbalance that BIDS answers. O(N * M); raw scores; the paper sums, which orders alike for equal column
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import open_selection
from curate.selection.result import Selection
from curate.selection.row_scores import require_tasks, take_best, task_means


def less(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Rows by max over tasks of the mean raw score over the task's columns.

    scores: (N, M); budget: rows, a fraction or a `TokenBudget`; tasks: (M,) labels, required; constraints: see
    `Constraints`. `normalize` and `seed` are not used.
    target: the row's best column of its winning task. Raises `SelectionError`.
    """
    labels = require_tasks(tasks, "less")
    view, ledger = open_selection(scores, budget, labels, constraints)
    if ledger.size == 0:
        return view.result(*(np.empty(0, dtype=np.int64),) * 3)
    _, means, columns = task_means(view.raw(), labels)
    winner = means.argmax(axis=0)
    every = np.arange(view.rows.size)
    return take_best(view, means[winner, every], columns[winner, every], ledger)
