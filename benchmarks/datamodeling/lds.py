"""The linear datamodeling score: do the scores of the rows trained on predict the loss that training on them leaves?

A score is additive if the sum over a training set's rows foretells the model trained on that set (Ilyas et al., arXiv
2202.00622). LDS (Park et al., arXiv 2303.14186, section 2) is the rank correlation over random training sets between
that sum and what was measured, per target, averaged over targets. Intervals come from resampling the training sets with
the targets kept, the same draws for every scorer so that differences are paired: they say how sure one is of *these*
targets, not of others. (Percentiles; with few sets a resample's own value lies a little below, and so does a single
interval.) Retraining is noisy, so even the truth stays below 1; `ceiling` says how far. Pure functions on arrays; a
draw costs one ranking of (S, M) per scorer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

FEWEST_SETS = 4


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """per_target: scorer -> (M,) rank correlations; draws: scorer -> (B,) mean over targets in each resample."""

    per_target: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]

    def mean(self, name: str) -> Interval:
        return _interval(float(self.per_target[name].mean()), self.draws[name])

    def difference(self, name: str, other: str) -> Interval:
        """LDS of `name` minus that of `other`, paired."""
        value = float(self.per_target[name].mean() - self.per_target[other].mean())
        return _interval(value, self.draws[name] - self.draws[other])


def agreement(
    scores: Mapping[str, np.ndarray], members: np.ndarray, losses: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Agreement:
    """LDS of every scorer.

    scores: name -> (n, M), larger where training on the row should lower the target's loss; members: (S, n) bool;
    losses: (S, M) of the models trained on them, all finite. Raises `ValueError` on shapes that do not fit, on scores
    that are not finite, and on fewer than `FEWEST_SETS` training sets.
    """
    sets, rows = members.shape
    if sets < FEWEST_SETS:
        raise ValueError(f"{sets} trained models: a rank correlation needs {FEWEST_SETS} at least; train more halves")
    if losses.shape[0] != sets or not np.isfinite(losses).all():
        raise ValueError(f"losses of shape {losses.shape} for {sets} training sets, or some not finite")
    for name, matrix in scores.items():
        if matrix.shape != (rows, losses.shape[1]):
            raise ValueError(f"{name} has scores of shape {matrix.shape}, not {(rows, losses.shape[1])}")
        if not np.isfinite(matrix).all():
            raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(matrix))} scores that are not finite")
    predicted = {name: members.astype(np.float64) @ matrix for name, matrix in scores.items()}
    per_target = {name: rank_correlations(sums, -losses) for name, sums in predicted.items()}
    draws = {name: np.empty(resamples) for name in scores}
    rng = np.random.default_rng([seed, 1])
    for b in range(resamples):
        drawn = rng.integers(sets, size=sets)
        ranks = _unit_ranks(-losses[drawn])
        for name, sums in predicted.items():
            draws[name][b] = (_unit_ranks(sums[drawn]) * ranks).sum(axis=0).mean()
    return Agreement(per_target, draws)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M,) Spearman correlations of the columns of two (S, M) arrays; 0 for a column without spread, which ranks
    nothing."""
    return (_unit_ranks(a) * _unit_ranks(b)).sum(axis=0)


def ceiling(losses: np.ndarray, first: np.ndarray, second: np.ndarray) -> float | None:
    """About the LDS of a scorer that knows every expected loss: sqrt(1 - share of a loss's variance that is chance).

    losses: (S, M) of all models; first, second: (R, M) of the training sets that were trained twice. None without any.
    """
    if not len(first):
        return None
    noise = np.mean((first - second) ** 2, axis=0) / 2
    share = float(np.mean(noise / losses.var(axis=0, ddof=1)))  # the mean first: a single target's share is rough
    return float(np.sqrt(max(0.0, 1 - share)))


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks of each column, centred and of length 1; zeros for a constant column."""
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.linalg.norm(ranks, axis=0)
    return ranks / np.where(length == 0, 1.0, length)


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))
