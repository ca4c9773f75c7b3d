"""Filters that score every row: one rule for which of them go, by threshold or at the same rate in every group.

A threshold is the same for all and its removal rate is not; `equalise` keeps the rate over all rows and gives it to
every group (`balance.equalised`). Its price: rows under the threshold go where a group has few over it, and rows over
it stay where a group has many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from curate.cleaning.balance import equalised
from curate.cleaning.contract import Removed
from curate.records import Example


@dataclass(frozen=True)
class Verdict:
    """One row's score (higher is worse, NaN: none), whether it is past the threshold, why, and the row it matches."""

    score: float
    over: bool
    reason: str
    matched_id: str = ""


@dataclass(frozen=True)
class Equal:
    """The grouping whose groups shall lose the same share: its name and the group of a row."""

    by: str
    group_of: Callable[[Example], str]


def split(
    name: str, examples: Sequence[Example], verdicts: Sequence[Verdict], equal: Equal | None
) -> tuple[list[Example], list[Removed]]:
    """The rows that filter `name` keeps and removes."""
    over = np.array([verdict.over for verdict in verdicts], dtype=bool)
    gone, groups = over, list[str]()
    if equal is not None:
        groups = [equal.group_of(example) for example in examples]
        scores = np.array([verdict.score for verdict in verdicts], dtype=np.float64)
        gone = equalised(scores, over, groups, [example.id for example in examples])
    kept, removed = [], []
    for place, (example, verdict) in enumerate(zip(examples, verdicts, strict=True)):
        if not gone[place]:
            kept.append(example)
            continue
        why = verdict.reason
        if equal is not None:
            why = f"{why}; among the highest scores of {equal.by} {groups[place]}, as many as {over.mean():.1%} of all"
        removed.append(Removed(example.id, example.source, name, why, verdict.matched_id))
    return kept, removed
