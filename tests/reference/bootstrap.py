"""The percentile bootstrap, one resample at a time, and a mean difference over pairs: obvious and slow."""

from __future__ import annotations

import random
import statistics


def percentile_interval(groups: list[list[float]], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of the mean of the groups' means; every resample draws inside each group."""
    rng = random.Random(seed)
    means = sorted(
        statistics.fmean(statistics.fmean(rng.choices(group, k=len(group))) for group in groups)
        for _ in range(resamples)
    )
    tail = (1 - confidence) / 2
    return means[round(tail * (resamples - 1))], means[round((1 - tail) * (resamples - 1))]
