"""The utility curve of a selection, and a budget after which a further row adds less than half of what the first did.

The rule: a window is 1 % of the pool; the start is the median utility of the first window of picks (a median over so
many, because the very first are outliers); the suggested budget is the last rank before the median of the latest
window first falls below half of the start. It looks back only, so the suggestion does not move with the budget that
was asked for, as the knee of the drawn curve does (Kneedle, Satopaa et al. 2011: on the demo 46 rows at a budget of
320 and 309 at 3,200).

Limits: half and 1 % are conventions, and the median lags by half a window; utility is alignment of gradients, not
accuracy, so this says where the method's own criterion runs dry and nothing about the model. It needs a utility with
a zero that means "no better than the rest".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.selection.result import Selection

SHARE = 0.5
LEAST_WINDOW = 21


@dataclass(frozen=True)
class SuggestedBudget:
    """rows: the suggestion, or None with the `reason`; start: the utility that it is measured against."""

    rows: int | None
    start: float | None
    reason: str


def utility_curve(selection: Selection, points: int = 200) -> list[tuple[int, float]]:
    """(rank from 1, utility) at no more than `points` evenly spaced ranks, the first and last among them."""
    count = selection.order.size
    ranks = np.unique(np.linspace(0, max(0, count - 1), min(points, count)).round().astype(int))
    return [(int(rank) + 1, float(selection.utility[rank])) for rank in ranks]


def suggested_budget(utility: np.ndarray, pool_rows: int, share: float = SHARE) -> SuggestedBudget:
    """Where the (B,) utilities, in pick order, have fallen to `share` of their start; pool_rows: usable rows."""
    from scipy.ndimage import median_filter  # a third of a second of imports

    utility = np.asarray(utility, dtype=np.float64)
    half = max(LEAST_WINDOW, pool_rows // 100) // 2
    window = 2 * half + 1
    if not np.isfinite(utility).all():
        return SuggestedBudget(None, None, "the method has no utility")
    if utility.size < 2 * window:
        return SuggestedBudget(None, None, f"fewer than {2 * window:,} picks are too few to see a trend")
    recent = median_filter(utility, size=window)[half : utility.size - half]
    start = float(recent[0])
    if start <= 0:
        return SuggestedBudget(None, start, "even the first picks have no positive utility")
    below = np.flatnonzero(recent < share * start)
    if not below.size:
        return SuggestedBudget(
            None, start, f"up to {utility.size:,} rows each adds more than {share:.0%} of what the first ones did"
        )
    return SuggestedBudget(
        int(below[0]) + window - 1, start, f"beyond it a row adds less than {share:.0%} of what the first ones did"
    )
