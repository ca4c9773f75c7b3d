"""DSIR: rows drawn without replacement with probability proportional to their importance weight (arXiv 2302.03169,
section 3).

Gumbel top-k: the `budget` largest of log weight + standard Gumbel noise are such a draw. The weight is that of the
distribution over all targets, as in the paper. The noise is drawn for all N rows, so a smaller budget gives a prefix
and an exclusion does not reshuffle the rest. Log weights of real texts spread over tens to hundreds, against which
the noise is small: most of the draw is the plain top. O(N * M).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints
from curate.selection.inputs import POOLED
from curate.selection.ledger import open_selection
from curate.selection.normalise import ScoreView, SelectionError
from curate.selection.result import Selection
from curate.selection.row_scores import as_it_is, row_maximum, take_best


def dsir(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
) -> Selection:
    """A seeded draw of `budget` rows by their log importance weights.

    scores: (N, M) log weights; budget: rows, a fraction or a `TokenBudget`; constraints: see `Constraints`; tasks:
    (M,) labels. The column labelled `POOLED` decides; without one the weight is that of the equal mixture of the
    columns' distributions, `log(mean_j exp(A_ij))`, which for a single column is the column. `normalize` is not used:
    weights have a scale of their own. target: the deciding column, or the row's largest; utility: log weight plus
    noise. Raises `SelectionError`.
    """
    view, ledger = open_selection(scores, budget, tasks, constraints)
    weight, where = _log_weights(view.raw(), tasks)
    noise = np.random.default_rng(seed).gumbel(size=view.scores.shape[0])
    return take_best(view, weight + noise[view.rows], where, ledger)


def _log_weights(view: ScoreView, tasks: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) log weights and (n,) positions of the columns they come from."""
    labels = [] if tasks is None else list(tasks)
    if POOLED in labels:
        found = np.flatnonzero(view.columns == labels.index(POOLED))
        if not found.size:
            raise SelectionError(f"the column {POOLED} is constant or not finite; check the targets' texts")
        return view.column(int(found[0])), np.full(view.rows.size, found[0])
    total = np.full(view.rows.size, -np.inf)
    for start, _, values in view.map_pieces(as_it_is):
        part = total[start : start + values.size]
        np.logaddexp(part, values, out=part)
    return total - np.log(max(1, view.columns.size)), row_maximum(view)[1]
