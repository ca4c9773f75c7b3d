"""Equal quota: tasks take turns, each taking its best unselected row.

The obvious way to balance, asked for beside BIDS: counts per task differ by at most 1, whatever the rows are worth.
Turns go in order of first appearance, so a smaller budget gives a prefix. O(T * N log N).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.normalise import open_scores
from curate.selection.ranking import leading
from curate.selection.result import Selection
from curate.selection.row_scores import require_tasks, task_means


def equal_quota(
    scores: np.ndarray,
    budget: int | float,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> Selection:
    """Rows in turn by the mean raw score over each task's columns, ties to the lowest row.

    scores: (N, M); budget: rows or a fraction; tasks: (M,) labels, required. `normalize` and `seed` are not used.
    target: the row's best column of the task whose turn it was; utility: that task's mean. Raises `SelectionError`.
    """
    labels = require_tasks(tasks, "equal_quota")
    view, size = open_scores(scores, budget, labels)
    names, means, columns = task_means(view.raw(), labels)
    # Among its first `size` rows a task always finds one that the others, with fewer than `size` picks, left over.
    queues = [leading(means[task], size) for task in range(len(names))]
    pointer = [0] * len(names)
    taken = np.zeros(view.rows.size, dtype=bool)
    order, turns = np.empty(size, dtype=np.int64), np.arange(size) % max(1, len(names))
    for pick, task in enumerate(turns.tolist()):
        while taken[queues[task][pointer[task]]]:
            pointer[task] += 1
        order[pick] = queues[task][pointer[task]]
        taken[order[pick]] = True
    return view.result(order, columns[turns, order], means[turns, order])
