"""Intervals for means over items, paired differences on the same items, and averages over capabilities.

The percentile bootstrap over items (Efron 1979; here `scipy.stats.bootstrap`) because the values are accuracies of 0
and 1 as well as skewed bits per byte, and it needs no distribution. Two models are always compared on the same items,
pair by pair: the items' difficulty, which is most of the variance, cancels. An average over capabilities resamples
inside each capability (a stratified bootstrap), since the set of capabilities is fixed by design. Limits: items are the
only source of variation, so the luck of a training seed is not in the interval; no correction for many comparisons;
under some 20 items the percentile interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

Verdict = Literal["better", "worse", "no clear difference"]
BATCH_BYTES = 64 << 20


class StatisticsError(ValueError):
    """Values from which no honest interval can be made."""


class Interval(BaseModel):
    """A mean and the interval around it; `low <= mean <= high` but for the rare skewed sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float
    high: float
    items: int


def _sample(values: ArrayLike, what: str) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise StatisticsError(
            f"{what}: an interval needs a list of two items or more, not shape {sample.shape}; evaluate more items"
        )
    if not np.isfinite(sample).all():
        raise StatisticsError(
            f"{what}: {int((~np.isfinite(sample)).sum())} of {len(sample)} values are NaN or infinite"
        )
    return sample


def _mean_of_means(*samples: NDArray, axis: int = -1) -> NDArray:
    return sum(sample.mean(axis=axis) for sample in samples) / len(samples)


def _bootstrap(samples: Sequence[NDArray], confidence: float, resamples: int, seed: int) -> Interval:
    from scipy.stats import bootstrap  # half a second of imports

    result = bootstrap(
        samples,
        _mean_of_means,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_BYTES // (8 * max(len(sample) for sample in samples))),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(
        mean=float(_mean_of_means(*samples)),
        low=float(low),
        high=float(high),
        items=sum(len(sample) for sample in samples),
    )


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, *, seed: int = 0
) -> Interval:
    """Mean of `values` (n,) with its percentile bootstrap interval; the same seed gives the same interval.

    Raises `StatisticsError` for fewer than two items and for NaN or infinite values.
    """
    return _bootstrap([_sample(values, "values")], confidence, resamples, seed)


def pair(a: Mapping[str, float], b: Mapping[str, float]) -> NDArray[np.float64]:
    """Differences a - b, item by item in the order of their ids. Raises `StatisticsError` when the ids differ."""
    if a.keys() != b.keys():
        one = sorted(a.keys() ^ b.keys())[0]
        raise StatisticsError(
            f"the two models were not scored on the same items ({len(a)} and {len(b)}; for one, {one!r}); "
            "evaluate both on the same"
        )
    return np.array([a[key] - b[key] for key in sorted(a)], dtype=np.float64)


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    confidence: float = 0.95,
    resamples: int = 2000,
    *,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over the same items, with its interval. `a`, `b`: item id → value."""
    return _bootstrap([_sample(pair(a, b), "differences")], confidence, resamples, seed)


def macro_average(
    groups: Mapping[str, ArrayLike], confidence: float = 0.95, resamples: int = 2000, *, seed: int = 0
) -> Interval:
    """Mean over groups (tasks, capabilities) of each group's mean, every group with the same weight, whatever its size.

    Resampling is done inside each group. Pass paired differences per group for the difference of two macro averages.
    """
    if not groups:
        raise StatisticsError("an average over capabilities needs one capability or more")
    # by name, so that the order in which a caller lists them does not change the interval
    return _bootstrap([_sample(groups[name], name) for name in sorted(groups)], confidence, resamples, seed)


def verdict(difference: Interval, higher_is_better: bool) -> Verdict:
    """What an interval of `model - control` allows to say. An interval that contains or touches zero is never a win."""
    if difference.low <= 0 <= difference.high:
        return "no clear difference"
    return "better" if (difference.low > 0) == higher_is_better else "worse"
