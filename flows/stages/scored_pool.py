"""A scored pool as the analysis uses it: to make a run's selections again, and as the one scale they are measured on.

Selecting again is how the analysis sees beyond the budget and how sure a row is, so it must be the selection that the
select stage made: the same method, budget, constraints and seed, and a check that the rows are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curate.scores import ScoreMatrix
from curate.selection import METHODS
from curate.selection.constraints import Budget, Constraints, TokenBudget
from curate.selection.explain import top_rows
from curate.selection.normalise import ScoreView, SelectionWarning, as_matrix, usable
from curate.selection.result import Selection
from flows.store import StoreError

EXPLORED = 4  # how far beyond the budget the utility curve is drawn


@contextmanager
def _told_before() -> Iterator[None]:
    """The select stage has warned of what it left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        yield


@dataclass(frozen=True, eq=False)
class ScoredPool:
    """A score matrix with what the configuration demands of a selection from it; sources: (N,) of its rows."""

    matrix: ScoreMatrix
    sources: list[str]
    budget: Budget
    constraints: Constraints | None
    seed: int

    @cached_property
    def view(self) -> ScoreView:
        """The usable part of the matrix, opened once."""
        with _told_before():
            return usable(as_matrix(self.matrix.values))

    def select(self, method: str, scores: np.ndarray, tasks: Sequence[str], budget: Budget | None = None) -> Selection:
        """The method as the select stage calls it, on all or some of the columns, or with another budget."""
        budget = self.budget if budget is None else budget
        with _told_before():
            return METHODS[method](scores, budget, tasks=tasks, seed=self.seed, constraints=self.constraints)

    def again(self, method: str, selection: Selection) -> Selection:
        """What the method selects from all columns: `selection`, and `EXPLORED` times as many rows where a larger
        budget only adds rows."""
        matrix, rows = self.matrix, selection.order.size
        plain = self.constraints is None and not isinstance(self.budget, TokenBudget)
        budget = min(EXPLORED * rows, self.view.rows.size) if plain else None
        found = self.select(method, matrix.values, matrix.tasks, budget)
        if not np.array_equal(found.order[:rows], selection.order):
            raise StoreError(
                f"the analysis does not select with {method} what the select stage did, although both had the same "
                "settings; please report this as a bug"
            )
        return found


class Yardstick:
    """The matrix that all selections are measured on."""

    def __init__(self, scored: ScoredPool) -> None:
        self.scored = scored
        self.view = scored.view
        self.tops = top_rows(self.view)
        good = set(self.view.rows.tolist())
        self._place = {name: row for row, name in enumerate(scored.matrix.row_ids) if row in good}

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of the ids, in their order; an id that this matrix cannot score has none."""
        return np.array([self._place[name] for name in ids if name in self._place], dtype=np.int64)
