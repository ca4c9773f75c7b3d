"""The percentile bootstrap and Holm's correction, one resample and one claim at a time: obvious and slow."""

from __future__ import annotations

import random
import statistics


def percentile_interval(
    groups: list[list[list[float]]], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Interval of the mean of the groups' means. groups: per group a list of runs, each a list of the items' values;
    every resample draws items inside each group, and one run fewer than there are, the same ones for all groups."""
    rng = random.Random(seed)
    count = len(groups[0])
    means = []
    for _ in range(resamples):
        runs = rng.choices(range(count), k=count - 1) if count > 1 else [0]
        each = []
        for group in groups:
            items = rng.choices(range(len(group[0])), k=len(group[0]))
            each.append(statistics.fmean(group[run][item] for run in runs for item in items))
        means.append(statistics.fmean(each))
    means.sort()
    tail = (1 - confidence) / 2
    return means[round(tail * (resamples - 1))], means[round((1 - tail) * (resamples - 1))]


def rejected(p_values: list[float], level: float) -> set[int]:
    """Positions that Holm's step-down procedure rejects at `level`."""
    out: set[int] = set()
    left = list(range(len(p_values)))
    while left:
        smallest = min(left, key=lambda k: p_values[k])
        if p_values[smallest] > level / len(left):
            break
        out.add(smallest)
        left.remove(smallest)
    return out
