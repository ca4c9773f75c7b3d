"""Equal quota: tasks take turns, each taking its best unselected row.

The obvious way to balance, asked for beside BIDS: counts per task differ by at most 1, whatever the rows are worth.
Turns go in order of first appearance, so a smaller budget gives a prefix. O(T * N log N).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints, TokenBudget
from curate.selection.ledger import open_selection
from curate.selection.ranking import leading
from curate.selection.result import Selection
from curate.selection.row_scores import require_tasks, task_means


def equal_quota(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """Rows in turn by the mean raw score over each task's columns, ties to the lowest row.

    scores: (N, M); budget: rows, a fraction or a `TokenBudget`; tasks: (M,) labels, required; constraints: see
    `Constraints`, rows of `include` use up turns. `normalize` and `seed` are not used. target: the row's best column of
    the task whose turn it was; utility: that task's mean. Raises `SelectionError`.
    """
    labels = require_tasks(tasks, "equal_quota")
    view, ledger = open_selection(scores, budget, labels, constraints)
    if ledger.size == 0:
        return view.result(*(np.empty(0, dtype=np.int64),) * 3)
    names, means, columns = task_means(view.raw(), labels)
    # without constraints a task always finds a row among its first `size`: the others have fewer picks than that
    depth = ledger.size if constraints is None and not isinstance(budget, TokenBudget) else view.rows.size
    queues = [leading(means[task], depth) for task in range(len(names))]
    pointer = [0] * len(names)
    first = ledger.first.tolist()
    picked: list[int] = []
    while len(picked) < ledger.size:
        task = len(picked) % len(names)
        queue = queues[task]
        while pointer[task] < queue.size and ledger.blocked[queue[pointer[task]]]:
            pointer[task] += 1
        if pointer[task] == queue.size:
            break
        row = first[len(picked)] if len(picked) < len(first) else int(queue[pointer[task]])
        if ledger.take(row):
            picked.append(row)
    ledger.close(len(picked))
    order, turns = np.array(picked, dtype=np.int64), np.arange(len(picked)) % len(names)
    return view.result(order, columns[turns, order], means[turns, order])
