"""Equal samples of groups of rows, and intervals.

A figure that depends on how much it is computed on (distinct n-grams, compression, Vendi score) would differ between a
pool and its tenth for that reason alone. It is computed on samples of one size for all groups, half of the smallest
group: drawn without replacement, halves of a group vary as much as the group itself does around what it was drawn from.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
COVERED = 0.95


def sample(names: Sequence[str], count: int, seed: int) -> list[int]:
    """Places of `count` of the rows, all where there are no more; which ones depends on the ids and the seed alone, so
    that groups that share a row mostly share it in their samples too."""
    order = sorted(range(len(names)), key=lambda i: (zlib.crc32(f"{seed}/{names[i]}".encode()), names[i]))
    return sorted(order[:count])


def over_draws(measure: Callable[[np.ndarray], float], rows: int, size: int, draws: int, seed: int) -> list[float]:
    """[mean, low, high] of `measure(places)` over seeded orders of `size` of the `rows`; low and high hold the middle
    95 % of the draws. NaN where a draw has none."""
    values = []
    for number in range(draws):
        order = np.random.default_rng([seed, number]).permutation(rows)[:size]
        values.append(measure(order))
    return _summary(float(np.mean(values)), np.array(values))


def over_rows(values: np.ndarray, seed: int) -> list[float]:
    """[mean, low, high] of the finite values, with a percentile bootstrap interval over rows."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [float("nan")] * 3
    generator = np.random.default_rng(seed)
    places = (generator.integers(0, finite.size, finite.size) for _ in range(RESAMPLES))
    return _summary(float(finite.mean()), np.array([finite[place].mean() for place in places]))


def _summary(mean: float, values: np.ndarray) -> list[float]:
    tail = (1 - COVERED) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return [mean, float(low), float(high)]
