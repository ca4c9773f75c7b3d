"""Who pays for a filter: removal rates by group, an exact test against the others, and removal at the same rate.

A filter that is right on average can empty one source or language: "Toxicity of the Commons" (arXiv 2410.22587) found
classifiers that do. So every filter's removals are counted per group, and a group is flagged when it loses `ratio`
times the share of all others and chance is excluded: one-sided Fisher's exact test (the hypergeometric tail), with
Holm's correction over all groups of all filters of a run. Both must hold, since in a large pool a tiny difference is
certain and in a small group a large one is luck. Its limit: the test takes rows as independent, and copies of one text
are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RATIO = 2.0
ALPHA = 0.01


@dataclass(frozen=True)
class GroupRate:
    """One filter and one group: it saw `seen` rows of it and removed `removed`.

    rate, rate_of_others: shares removed; ratio: between the two, None where the others lost none; p_value: Fisher's,
    corrected; flagged: whether the group pays far more than the others.
    """

    filter: str
    by: str
    group: str
    seen: int
    removed: int
    rate: float
    rate_of_others: float
    ratio: float | None
    p_value: float
    flagged: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Split:
    """What one filter did by one grouping: group -> rows of it that the filter saw, and that it removed."""

    filter: str
    by: str
    seen: Mapping[str, int]
    removed: Mapping[str, int]


def group_rates(splits: Sequence[Split], *, ratio: float = RATIO, alpha: float = ALPHA) -> list[GroupRate]:
    """The rates of every group of every split, groups by name; flags are corrected over all of them together.

    ratio: how many times the others' rate a flagged group loses at least; alpha: chance of one false flag in all.
    """
    counted = [row for split in splits for row in _counts(split)]
    tails = [fisher_greater(seen, removed, total, gone) for _, _, seen, removed, total, gone in counted]
    rates = []
    for (split, group, seen, removed, total, gone), p_value in zip(counted, holm(tails), strict=True):
        rate, others = removed / seen, (gone - removed) / (total - seen) if total > seen else 0.0
        times = rate / others if others else None
        far_more = seen < total and removed > 0 and (times is None or times >= ratio)
        rates.append(
            GroupRate(
                split.filter, split.by, group, seen, removed, rate, others, times, p_value, far_more and p_value < alpha
            )
        )
    return rates


def _counts(split: Split) -> list[tuple[Split, str, int, int, int, int]]:
    """(split, group, rows seen, rows removed, all rows, all removed) of every group."""
    total, gone = sum(split.seen.values()), sum(split.removed.values())
    return [(split, group, split.seen[group], split.removed.get(group, 0), total, gone) for group in sorted(split.seen)]


def fisher_greater(seen: int, removed: int, total: int, gone: int) -> float:
    """Probability that of `gone` rows drawn from `total` at least `removed` fall on the `seen` rows of a group."""
    from scipy.stats import hypergeom

    return float(min(1.0, hypergeom.sf(removed - 1, total, gone, seen)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down corrected p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def equalised(scores: np.ndarray, over: np.ndarray, groups: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """(N,) bool: the rows to remove so that every group loses the share that `over` is of all rows.

    scores: (N,) float, higher is worse, NaN for a row that has none and is never removed; over: (N,) bool, the rows
    past the threshold. A group loses those with its highest scores, ties by id, rounded to whole rows (half up).
    """
    share = float(np.mean(over)) if len(over) else 0.0
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    removed = np.zeros(len(scores), dtype=bool)
    for places in members.values():
        worst = sorted((i for i in places if not math.isnan(scores[i])), key=lambda i: (-scores[i], ids[i]))
        removed[worst[: math.floor(share * len(places) + 0.5)]] = True
    return removed
