"""Best-first order with ties to the lowest row, and per-column lists of the best rows that grow on demand.

A greedy method only ever looks at the best free row of each column, so a short sorted list per column replaces a sort
of the whole matrix. All lists are made in one pass over the matrix, panel by panel, and merged. A list that is used
up is made again from the rows that are still free, twice as deep: log2(N / depth) times at most.
"""

from __future__ import annotations

import numpy as np

from curate.selection.columns import PANEL_ROWS
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
    """For each column of a view, its best row that is still free.

    taken: (n,) bool, rows that are not free; shared with the caller, who calls `refresh` after changing it. ids,
    values: (m,) row position and value of every head (value -inf when no row is left). lists: per column the (ids,
    values) of the rows that were its best free ones when the list was made.
    """

    def __init__(self, view: ScoreView, depth: int = FIRST_DEPTH, taken: np.ndarray | None = None):
        self.view = view
        self.taken = np.zeros(view.rows.size, dtype=bool) if taken is None else taken
        columns = view.columns.size
        self.depth = [max(1, depth)] * columns
        self.lists = self._build(self.depth[0])
        self.pointer = [0] * columns
        self.ids = np.full(columns, -1, dtype=np.int64)
        self.values = np.full(columns, -np.inf)
        for column in range(columns):
            self._advance(column)

    def take(self, row: int) -> None:
        """Mark a row as taken and move on every head that was this row."""
        self.taken[row] = True
        self.refresh()

    def refresh(self) -> None:
        """Move on every head that is not free any more."""
        for column in self.taken[self.ids].nonzero()[0].tolist():
            self._advance(column)

    def complete(self, column: int) -> bool:
        """Whether the column's list holds all free rows."""
        return self.lists[column][0].size < self.depth[column]

    def _advance(self, column: int) -> None:
        while True:
            ids, values = self.lists[column]
            pointer = self.pointer[column]
            while pointer < ids.size and self.taken[ids[pointer]]:
                pointer += 1
            self.pointer[column] = pointer
            if pointer < ids.size:
                self.ids[column], self.values[column] = ids[pointer], values[pointer]
                return
            if self.complete(column):
                self.ids[column], self.values[column] = -1, -np.inf
                return
            self._deepen(column)

    def _deepen(self, column: int) -> None:
        """A list twice as deep, of the rows that are free now. Where a column costs as much to read as the matrix, all
        columns get theirs from the same pass."""
        if self.view.scores.shape[0] <= PANEL_ROWS:
            self.depth[column] *= 2
            values = self.view.column(column)
            free = np.flatnonzero(~self.taken)
            best = free[leading(values[free], self.depth[column])]
            self.lists[column], self.pointer[column] = (best, values[best]), 0
            return
        depth = 2 * max(self.depth)
        self.lists, self.pointer = self._build(depth), [0] * len(self.lists)
        self.depth = [depth] * len(self.lists)

    def _build(self, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best `depth` free rows of every column."""
        lists: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, dtype=np.int64), np.empty(0))] * (
            self.view.columns.size
        )
        free = ~self.taken
        everything = bool(free.all())

        def merged(start: int, position: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            old_ids, old_values = lists[position]
            floor = old_values[-1] if old_ids.size == depth else -np.inf
            if old_ids.size or not everything:
                # of equal values the earlier rows stay, and those are already in the list
                best = np.flatnonzero((values > floor) & free[start : start + values.size])
                best = best[leading(values[best], depth)]
            else:
                best = leading(values, depth)
            if not old_ids.size:
                return start + best, values[best]
            ids = np.concatenate([old_ids, start + best])
            values = np.concatenate([old_values, values[best]])
            first = np.argsort(-values, kind="stable")[:depth]
            return ids[first], values[first]

        for _, position, found in self.view.map_pieces(merged):
            lists[position] = found
        return lists
