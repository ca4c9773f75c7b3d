"""What a selection may still take, kept while it is made: the one mechanism by which every method obeys constraints.

A method proposes its best free row; `take` counts it, or refuses it for good. The ledger always holds a set of rows
that meets every demand: the picks, the rows that must come in, and a reserve that fills what the minima still lack,
shortest rows first. A row is taken if that set, with the row in it and without the part of the reserve that it makes
superfluous, still satisfies everything; a cluster that is full of reserve is relieved where another row can stand in
(augmenting paths, as in bipartite matching). So no order of proposals runs into a dead end at a minimum, and when the
remaining budget is what the minima lack only rows of those sources pass. O(1) per proposal but for those paths.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from curate.selection.conflicts import check, reserve_conflict, shortfall
from curate.selection.constraints import Budget, Constraints, Terms, TokenBudget, resolve
from curate.selection.normalise import ScoreView, open_view, require_columns, rows_to_select


class Ledger:
    """Without constraints: every row, once. size: most rows; first: positions to take before all others; blocked: (n,)
    bool, rows that are taken or refused."""

    def __init__(self, rows: int, size: int):
        self.size = size
        self.blocked = np.zeros(rows, dtype=bool)
        self.first = np.empty(0, dtype=np.int64)

    def take(self, row: int) -> bool:
        """Whether the row, not blocked so far, is taken; it is blocked after either answer."""
        self.blocked[row] = True
        return True

    def fill(self, ranking: np.ndarray) -> np.ndarray:
        """Positions taken when rows are proposed in the order of `ranking`; closes the ledger."""
        taken: list[int] = []
        for row in chain(self.first.tolist(), ranking.tolist()):
            if len(taken) == self.size:
                break
            if not self.blocked[row] and self.take(row):
                taken.append(row)
        self.close(len(taken))
        return np.array(taken, dtype=np.int64)

    def close(self, count: int) -> None:
        """Raises `SelectionError` if `count` picks are fewer than the budget and that is a conflict."""


class ConstrainedLedger(Ledger):
    """The same under constraints. Raises `SelectionError` for the first conflict, naming both sides."""

    def __init__(self, terms: Terms):
        super().__init__(terms.weight.size, terms.size)
        check(terms)
        self.terms = terms
        self.first = terms.include
        self.blocked[:] = ~terms.allowed
        self.held = np.zeros(self.blocked.size, dtype=bool)  # picks, must-includes and reserve
        self.reserved = np.zeros(self.blocked.size, dtype=bool)  # the reserve alone, which other rows can replace
        self.total = 0
        self.rows = [0] * len(terms.bounds)
        self.weight = [0] * len(terms.bounds)
        cluster = np.zeros(0, dtype=np.int64) if terms.cluster is None else terms.cluster
        self.load = np.zeros(cluster.max(initial=-1) + 1, dtype=np.int64)
        self.members = Groups(cluster, self.load.size, cluster)
        self.shortest = Groups(terms.source, len(terms.bounds), terms.weight)
        self.reserve: list[list[int]] = [[] for _ in terms.bounds]  # by ascending weight
        self.journal: list[tuple[int, int, bool]] = []  # changes of `held`, to be undone
        for row in terms.include.tolist():
            self._count(row, 1)
        for source in range(len(terms.bounds)):
            self._reserve(source)

    def take(self, row: int) -> bool:
        if not self.held[row] and not self._admit(row):
            self._refuse(row)
            return False
        self.reserved[row] = False
        self.blocked[row] = True
        return True

    def close(self, count: int) -> None:
        if self.terms.unit == "rows" and count < self.size:
            raise shortfall(self.terms, count)

    def _admit(self, row: int) -> bool:
        """Hold the row, and give back the reserve that it makes superfluous; nothing changes if that cannot be."""
        terms, source = self.terms, int(self.terms.source[row])
        bounds, reserve = terms.bounds[source], self.reserve[source]
        while reserve and not self.reserved[reserve[-1]]:
            reserve.pop()
        self.journal.clear()
        self._count(row, 1)
        room = True
        if terms.cluster is not None:
            cluster = int(terms.cluster[row])
            room = self.load[cluster] <= terms.cap or self._relieve(cluster, {cluster})
        self._trim(source)
        if (
            room
            and self.total <= terms.capacity
            and self.rows[source] <= bounds.max_rows
            and self.weight[source] <= bounds.max_weight
        ):
            return True
        for changed, sign, reserved in reversed(self.journal[:]):
            self._count(changed, -sign)
            self.reserved[changed] = reserved
        return False

    def _trim(self, source: int) -> None:
        """Give back the longest rows of a source's reserve while its minimum is met without them."""
        for candidate in reversed(self.reserve[source]):
            if self.reserved[candidate]:
                if not self._spare(candidate):
                    break
                self._release(candidate)

    def _spare(self, row: int) -> bool:
        """Whether the minimum of the row's source is met without it."""
        source = int(self.terms.source[row])
        bounds, weight = self.terms.bounds[source], int(self.terms.weight[row])
        return self.rows[source] > bounds.min_rows and self.weight[source] - weight >= bounds.min_weight

    def _reserve(self, source: int) -> None:
        """Hold the source's shortest rows until its minimum is met."""
        bounds = self.terms.bounds[source]
        skipped = []

        def met() -> bool:
            return self.rows[source] >= bounds.min_rows and self.weight[source] >= bounds.min_weight

        for row in self.shortest[source].tolist():
            if met():
                break
            if self.held[row] or self.blocked[row]:
                continue
            if self._full(row):
                skipped.append(row)
            else:
                self._put(row)
        for row in skipped:
            if met():
                break
            cluster = int(self.terms.cluster[row])  # type: ignore[index]
            if self._relieve(cluster, {cluster}):
                self._put(row)
        over = self.rows[source] > bounds.max_rows or self.weight[source] > bounds.max_weight
        if not met() or over or self.total > self.terms.capacity:
            raise reserve_conflict(self.terms, source, self.total)

    def _relieve(self, cluster: int, seen: set[int]) -> bool:
        """Take one reserved row out of a cluster: one that is not needed any more, or one that another row of its
        source, in a cluster with room or that can be relieved in turn, stands in for."""
        cluster_of = self.terms.cluster
        assert cluster_of is not None
        leaving_rows = self._replaceable(cluster)
        for leaving in leaving_rows:
            if self._spare(leaving):
                self._release(leaving)
                return True
        options = [(leaving, self._stand_ins(leaving)) for leaving in leaving_rows]
        for leaving, rows in options:
            there = rows[self.load[cluster_of[rows]] < self.terms.cap]
            if there.size:
                self._release(leaving)
                self._put(int(there[0]))
                return True
        for leaving, rows in options:
            for row in rows.tolist():
                other = int(cluster_of[row])
                if other not in seen:
                    seen.add(other)
                    if self._relieve(other, seen):
                        self._release(leaving)
                        self._put(row)
                        return True
        return False

    def _stand_ins(self, leaving: int) -> np.ndarray:
        """Rows of the same source, shortest first, that are free and heavy enough for its minimum."""
        terms, source = self.terms, int(self.terms.source[leaving])
        least = terms.bounds[source].min_weight - self.weight[source] + terms.weight[leaving]
        rows = self.shortest[source]
        return rows[~(self.held[rows] | self.blocked[rows]) & (terms.weight[rows] >= least)]

    def _refuse(self, row: int) -> None:
        """Block the row, and with it every row that would be refused for the same reason."""
        terms, source = self.terms, int(self.terms.source[row])
        self.blocked[row] = True
        if terms.cluster is not None and self._full(row):
            cluster = self.members[int(terms.cluster[row])]
            if not self.reserved[cluster].any():
                self.blocked[cluster[~self.held[cluster]]] = True
        elif terms.bounds[source].min_weight == 0 or not self.reserved[self.reserve[source]].any():
            # what decides is the weight, so all rows of the source that weigh as much are refused too
            rows = self.shortest[source]
            longer = rows[np.searchsorted(terms.weight[rows], terms.weight[row]) :]
            self.blocked[longer[~self.held[longer]]] = True
            self.shortest.cut(source, rows.size - longer.size)

    def _full(self, row: int) -> bool:
        return self.terms.cluster is not None and bool(self.load[self.terms.cluster[row]] >= self.terms.cap)

    def _replaceable(self, cluster: int) -> list[int]:
        members = self.members[cluster]
        return members[self.reserved[members]].tolist()

    def _put(self, row: int) -> None:
        """Reserve a row."""
        self._count(row, 1)
        self.reserved[row] = True
        insort(self.reserve[int(self.terms.source[row])], row, key=lambda r: (self.terms.weight[r], r))

    def _release(self, row: int) -> None:
        """Give a reserved row back; its entry in `reserve` stays, and is passed over."""
        self._count(row, -1)
        self.reserved[row] = False

    def _count(self, row: int, sign: int) -> None:
        source, weight = int(self.terms.source[row]), sign * int(self.terms.weight[row])
        self.journal.append((row, sign, bool(self.reserved[row])))
        self.held[row] = sign > 0
        self.total += weight
        self.rows[source] += sign
        self.weight[source] += weight
        if self.terms.cluster is not None:
            self.load[self.terms.cluster[row]] += sign


class Groups:
    """Positions by label 0, 1, ..., within each by ascending `by` and position; a group can be cut at its end."""

    def __init__(self, labels: np.ndarray, count: int, by: np.ndarray):
        order = np.lexsort((by, labels))
        self.groups = np.split(order, np.searchsorted(labels[order], np.arange(1, count))) if count else []

    def __getitem__(self, label: int) -> np.ndarray:
        return self.groups[label]

    def cut(self, label: int, size: int) -> None:
        self.groups[label] = self.groups[label][:size]


def open_selection(
    scores: Any, budget: Budget, tasks: Sequence[Any] | None = None, constraints: Constraints | None = None
) -> tuple[ScoreView, Ledger]:
    """The usable part of `scores` and the ledger of a selection from it; warns about what is left out.

    Raises `SelectionError`: wrong shape, tasks not (M,), a budget below 0 or above the usable rows, no usable column,
    malformed or conflicting constraints.
    """
    view = open_view(scores, tasks)
    ledger = open_ledger(view, budget, constraints)
    if ledger.size:
        require_columns(view)
    return view, ledger


def open_ledger(view: ScoreView, budget: Budget, constraints: Constraints | None) -> Ledger:
    """The ledger alone, for a view that need not have columns."""
    if constraints is None and not isinstance(budget, TokenBudget):
        return Ledger(view.rows.size, rows_to_select(budget, view))
    return ConstrainedLedger(resolve(view, budget, constraints or Constraints()))
