"""Best-first order with ties to the lowest row, and per-column lists of the best rows that grow on demand.

A greedy method only ever looks at the best unselected row of each column, so a short sorted list per column replaces
a sort of the whole matrix. Depth doubles when a list is used up: O(N) per rebuild, log2(N / depth) rebuilds a column
at most.
"""

from __future__ import annotations

import numpy as np

from curate.selection.normalise import ScoreView

FIRST_DEPTH = 1024


def leading(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of the (n,) values, by value descending and index ascending, without a full
    sort."""
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    if count == 0:
        return np.empty(0, dtype=np.int64)
    least = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - above.size]
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], equal])


class ColumnHeads:
    """For each column of a view, its best row that is not taken yet.

    ids, values: (m,) row position and value of every head (value -inf when no row is left).
    """

    def __init__(self, view: ScoreView, depth: int = FIRST_DEPTH):
        self.view = view
        self.taken = np.zeros(view.rows.size, dtype=bool)
        depth = max(1, min(depth, view.rows.size))
        self.lists: list[tuple[np.ndarray, np.ndarray]] = []
        for _, column in view.iter_columns():
            ids = leading(column, depth)
            self.lists.append((ids, column[ids]))
        self.pointer = [0] * len(self.lists)
        self.ids = np.array([ids[0] for ids, _ in self.lists], dtype=np.int64)
        self.values = np.array([values[0] for _, values in self.lists], dtype=np.float64)

    def take(self, row: int) -> None:
        """Mark a row as selected and move on every head that was this row."""
        self.taken[row] = True
        for column in np.flatnonzero(self.ids == row):
            self._advance(int(column))

    def _advance(self, column: int) -> None:
        ids, values = self.lists[column]
        pointer = self.pointer[column]
        while pointer < ids.size and self.taken[ids[pointer]]:
            pointer += 1
            if pointer == ids.size and ids.size < self.taken.size:
                whole = self.view.column(column)
                ids = leading(whole, 2 * ids.size)
                values = whole[ids]
                self.lists[column] = (ids, values)
        self.pointer[column] = pointer
        exhausted = pointer == ids.size
        self.ids[column] = -1 if exhausted else ids[pointer]
        self.values[column] = -np.inf if exhausted else values[pointer]
