"""BIDS: balanced greedy selection, each pick the largest gap between a row's influence and the selected set's mean.

Improving Influence-based Instruction Tuning Data Selection for Balanced Learning of Diverse Capabilities, arXiv
2501.12147, Algorithm 1:

    i* = argmax over i not in T of max over j of (Z[i, j] - mean of Z[k, j] over k in T)

For a fixed column the row with the largest Z attains the column's maximum, so a sorted list per column replaces the
naive scan of the matrix at every pick: O(N * M) to prepare, O(M) and one row of the matrix per pick, against O(B * N
* M). Rounding of z - mean is monotone in z, so the rows of a column whose computed difference equals the maximum are
one run from its head; walking that run gives the naive method's lowest row bit for bit. Uses no task labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.selection.constraints import Budget, Constraints
from curate.selection.ledger import Ledger, open_selection
from curate.selection.normalise import ScoreView, SelectionError, warn_uneven
from curate.selection.ranking import FIRST_DEPTH, ColumnHeads
from curate.selection.result import Selection


def bids(
    scores: Any,
    budget: Budget,
    *,
    normalize: bool = True,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    constraints: Constraints | None = None,
    after: Selection | None = None,
    depth: int = FIRST_DEPTH,
) -> Selection:
    """The first `budget` picks of BIDS; a smaller budget gives a prefix of a larger one (of rows, unconstrained).

    scores: (N, M) influence, any real type, array, memory map or `ShardedScores`; computed in float64 without a
    float64 copy of it. budget: rows, a fraction of N, or a `TokenBudget`. normalize: z-scores per column (the paper),
    or raw scores. tasks: (M,) labels, used only to warn about unequal counts. constraints: each pick is the best of
    the rows that they still allow. after: an earlier selection on the same scores to go on from. depth: length of the
    first sorted lists; changes the memory, never the result. `seed` is not used. utility: the pick's gap,
    `max_j(Z[i, j] - mean_j)`; target: the lowest column that attains it. Raises `SelectionError` (see
    `open_selection`), also when `after` does not fit. Warns `SelectionWarning` on exclusions.
    """
    view, ledger = open_selection(scores, budget, tasks, constraints)
    warn_uneven(tasks, view.columns)
    view = view if normalize else view.raw()
    size = ledger.size
    order = np.empty(size, dtype=np.int64)
    target = np.empty(size, dtype=np.int64)
    utility = np.empty(size, dtype=np.float64)
    if size == 0 and (after is None or after.order.size == 0):
        return view.result(order, target, utility)

    total = np.zeros(view.columns.size)
    done = 0
    if after is not None:
        done = after.order.size
        order[:done], target[:done] = _positions(view, after, size)
        utility[:done] = after.utility
        _replay(ledger, order[:done])
        for row in order[:done].tolist():
            total += view.row(row)
    first = [row for row in ledger.first.tolist() if not ledger.blocked[row]]
    heads = ColumnHeads(view, depth, taken=ledger.blocked)
    mean, gaps = np.empty_like(total), np.empty_like(total)
    pick = done
    while pick < size:
        # Sum divided by count, not an incremental mean: a drifting mean changes the order after some thousand picks.
        np.divide(total, max(pick, 1), out=mean)
        if pick - done < len(first):
            row = first[pick - done]
        else:
            np.subtract(heads.values, mean, out=gaps)
            best = gaps.max()
            if best == -np.inf:
                break
            columns = (gaps == best).nonzero()[0].tolist()
            row = min([_lowest_tied(heads, column, mean[column], best) for column in columns])
        if ledger.take(row):
            values = view.row(row)
            total += values
            values -= mean
            column = values.argmax()
            order[pick], target[pick], utility[pick] = row, column, values[column]
            pick += 1
        heads.refresh()
    ledger.close(pick)
    return view.result(order[:pick], target[:pick], utility[:pick])


def _lowest_tied(heads: ColumnHeads, column: int, mean: float, best: float) -> int:
    """The lowest unselected row of the column whose computed value - mean is `best`, as the head's is."""
    head = int(heads.ids[column])
    if math.nextafter(heads.values[column], -math.inf) - mean < best:
        return head  # only equal values tie, and among those the list is in row order
    ids, values = heads.lists[column]
    start, width, lowest = heads.pointer[column], 16, head
    while start < ids.size:
        tied = values[start : start + width] - mean == best
        length = tied.size if tied.all() else int(tied.argmin())
        run = ids[start : start + length]
        lowest = min(lowest, int(run[~heads.taken[run]].min(initial=head)))
        if length < tied.size:
            return lowest
        start, width = start + length, 4 * width
    if heads.complete(column):
        return lowest
    beyond = (heads.view.column(column) - mean == best) & ~heads.taken
    return int(np.argmax(beyond))


def _positions(view: ScoreView, after: Selection, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets of an earlier selection as positions of the view."""
    if after.order.size > size:
        raise SelectionError(
            f"`after` holds {after.order.size} picks, more than the budget {size}; cut it or raise the budget"
        )
    if not (np.isin(after.order, view.rows).all() and np.isin(after.target, view.columns).all()):
        raise SelectionError("`after` holds rows or targets that these scores cannot use; it is of other scores")
    return np.searchsorted(view.rows, after.order), np.searchsorted(view.columns, after.target)


def _replay(ledger: Ledger, rows: np.ndarray) -> None:
    """Count the rows of an earlier selection."""
    for row in rows.tolist():
        if ledger.blocked[row] or not ledger.take(row):
            raise SelectionError("`after` holds a row twice or one that the constraints do not allow; start afresh")
