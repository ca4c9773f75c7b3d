"""What a selection is made of and how far to trust it: one file per question, pure functions on arrays.

    balance      AID and THI: how evenly the tasks are served (arXiv 2501.12147)
    sources      rows per source before and after; which source helps which task
    reasons      the table of selected rows with their reasons; why a row is not among them
    neighbours   the selected rows most like each selected row
    coverage     per task, what a growing budget brings
    budget       the utility curve and where more rows stop helping
    confidence   would the same rows be chosen with other targets?

`scores` is an (N, M) array or memory map, or the `ScoreView` that `usable` made of one, which saves the two passes of
opening it again. All are read by blocks of rows or columns: no float64 copy of the matrix is ever made.
"""

from curate.selection.explain.balance import (
    Balance,
    InfluenceProfile,
    average_influence,
    balance,
    imbalance_ratio,
    strongest_tasks,
)
from curate.selection.explain.budget import SuggestedBudget, suggested_budget, utility_curve
from curate.selection.explain.confidence import Confidence, resampled_columns, selection_confidence
from curate.selection.explain.coverage import Coverage, coverage, top_rows
from curate.selection.explain.neighbours import Neighbours, nearest_selected
from curate.selection.explain.reasons import NearMiss, WhyNot, near_misses, selection_table, why_not, why_not_rows
from curate.selection.explain.sources import SourceShare, influence_by_source, source_shares

__all__ = [
    "Balance",
    "Confidence",
    "Coverage",
    "InfluenceProfile",
    "NearMiss",
    "Neighbours",
    "SourceShare",
    "SuggestedBudget",
    "WhyNot",
    "average_influence",
    "balance",
    "coverage",
    "imbalance_ratio",
    "influence_by_source",
    "near_misses",
    "nearest_selected",
    "resampled_columns",
    "selection_confidence",
    "selection_table",
    "source_shares",
    "strongest_tasks",
    "suggested_budget",
    "top_rows",
    "utility_curve",
    "why_not",
    "why_not_rows",
]
