"""Weights for the examples of one optimizer step, computed from their current losses.

Losses are scaled to [-delta, delta], turned into a score by a strategy, and softened by a temperature r; the default
LinUpper damps low losses and treats everything from the mid-range up equally (arXiv 2502.06733). Weights have mean 1
and carry no gradient. Cost: a few hundred float64 numbers per step. Limit: one outlier stretches the range and would
take most of the mass, hence the cap; with fewer than two examples there is nothing to weigh.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.waterfill import water_fill

MIN_RANGE = 1e-6  # below this all losses count as equal
STRATEGIES = ("linupper", "quadratic", "extremes", "linear", "uniform")


class ReweightingError(ValueError):
    """A reweighting setting that cannot be used."""


def loss_weights(
    losses: ArrayLike,
    strategy: str = "linupper",
    temperature: float = 1.0,
    delta: float = 1.0,
    cap: float | None = None,
    sources: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Weight per example, mean 1 over the examples with a finite loss.

    Source: arXiv 2502.06733; spec "reweighting", sections 2 and 6.

    losses: (B,) mean label-token cross-entropy of each example. NaN and infinite losses are left out before the range
    is taken and get weight 0. strategy: one of STRATEGIES; "uniform" is exactly 1 for all. temperature: r >= 0;
    infinity is exactly uniform, 0 puts equal mass on the largest scores. delta: half-width of the scaled losses.
    cap: largest weight allowed (>= 1). sources: (B,) labels; when given, losses are scaled within each source.
    Returns (B,) float64; all 0 when no loss is finite (the caller skips the step). Raises ReweightingError.
    """
    if strategy not in STRATEGIES:
        nearest = difflib.get_close_matches(str(strategy), STRATEGIES, n=1, cutoff=0.0)[0]
        raise ReweightingError(f"strategy {strategy!r} is unknown; did you mean {nearest!r}? ({', '.join(STRATEGIES)})")
    if math.isnan(temperature) or temperature < 0:
        raise ReweightingError(f"temperature is {temperature}; it must be 0 or above (infinity is uniform)")
    if not 0 < delta < math.inf:
        raise ReweightingError(f"delta is {delta}; it must be above 0 and finite")
    _check_cap(cap)
    given = np.asarray(losses, dtype=np.float64)
    if given.ndim != 1:
        raise ReweightingError(f"losses has shape {given.shape}; it must be one number per example")
    groups = None if sources is None else np.asarray(sources)
    if groups is not None and groups.shape != given.shape:
        raise ReweightingError(f"sources has shape {groups.shape}, losses {given.shape}; give one source per example")

    weights = np.zeros(given.size)
    valid = np.isfinite(given)
    if not valid.any():
        return weights
    if strategy == "uniform" or temperature == math.inf:
        weights[valid] = 1.0
        return weights
    scores = _scores(_scaled(given[valid], delta, None if groups is None else groups[valid]), strategy, delta)
    weights[valid] = _softened(scores, temperature)
    if cap is not None:
        weights[valid] = cap_weights(weights[valid], cap)
    return weights


def _scaled(losses: NDArray[np.float64], delta: float, groups: NDArray | None) -> NDArray[np.float64]:
    """h in [-delta, delta]. Differences to both ends, because the published form cancels when the range is small."""
    if groups is not None:
        h = np.empty_like(losses)
        for group in np.unique(groups):
            inside = groups == group
            h[inside] = _scaled(losses[inside], delta, None)
        return h
    low, high = losses.min(), losses.max()
    return delta * ((losses - low) - (high - losses)) / max(high - low, MIN_RANGE)


def _scores(h: NDArray[np.float64], strategy: str, delta: float) -> NDArray[np.float64]:
    if strategy == "linupper":
        return np.minimum(h + delta, delta)
    if strategy == "quadratic":
        return 1.0 - (h / delta) ** 2
    if strategy == "extremes":
        return np.abs(h)
    return 0.5 * h + 0.5 * delta  # linear


def _softened(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    below = scores - scores.max()
    if temperature == 0:
        mass = (below == 0).astype(np.float64)
    else:
        with np.errstate(over="ignore"):  # a tiny temperature sends everything below the maximum to exp(-inf) = 0
            mass = np.exp(below / temperature)
    return scores.size * (mass / mass.sum())


def cap_weights(weights: ArrayLike, cap: float) -> NDArray[np.float64]:
    """Rescale weights (M,) to mean 1 with none above `cap` >= 1, exactly (water filling); cap 1 gives uniform.

    Weights that underflowed to 0 share equally what the capped ones leave, where no positive weight is left to take it.
    """
    _check_cap(cap)
    given = np.asarray(weights, dtype=np.float64)
    return water_fill(given, np.full(given.shape, float(cap)), given.size)


def combined_weights(
    factors: Sequence[ArrayLike], cap: float | None = None, valid: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Product of several (B,) weights, renormalised once to mean 1 over the valid examples, none above `cap`.

    Source: spec "coreset", sections 7 and 8: reweighting, cluster sizes and scalarization meet here and nowhere else.
    valid: (B,) bool, examples with a defined loss (default all); the others get 0. All 0 when none is valid.
    """
    product = np.prod([np.asarray(f, dtype=np.float64) for f in factors], axis=0)
    use = np.ones(product.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    weights = np.zeros(product.shape)
    if use.any():
        weights[use] = cap_weights(product[use], math.inf if cap is None else cap)
    return weights


def effective_sample_size(weights: ArrayLike) -> float:
    """(sum w)^2 / sum w^2: the number of equally weighted examples with the same variance; 0 when all weights are 0."""
    w = np.asarray(weights, dtype=np.float64)
    square = float(np.sum(w * w))
    return float(np.sum(w)) ** 2 / square if square > 0 else 0.0


def _check_cap(cap: float | None) -> None:
    if cap is not None and not cap >= 1:
        raise ReweightingError(f"cap is {cap}; weights have mean 1, so it must be 1 or above")


@dataclass(frozen=True)
class Anneal:
    """Temperature moves linearly from `start` to `end` between steps `first` and `last`, constant outside."""

    start: float
    end: float
    first: int
    last: int

    def __post_init__(self) -> None:
        if not (0 <= self.start < math.inf and 0 <= self.end < math.inf):
            raise ReweightingError(f"anneal from {self.start} to {self.end}: both must be finite and 0 or above")
        if not 0 <= self.first < self.last:
            raise ReweightingError(f"anneal between steps {self.first} and {self.last}: the first must come before")

    def __call__(self, step: int) -> float:
        share = min(max((step - self.first) / (self.last - self.first), 0.0), 1.0)
        return (1 - share) * self.start + share * self.end


@dataclass(frozen=True)
class ReweightingSchedule:
    """Temperature r by attempted optimizer step: infinity (plain training) during burn-in, then constant or annealed.

    A pure function of the step counter, so a resumed run needs nothing else. burn_in: share of `total_steps`;
    burn_in_steps replaces it by a number of steps. anneal replaces `temperature`; burn-in still comes first.
    """

    total_steps: int
    temperature: float = 1.0
    burn_in: float = 0.05
    burn_in_steps: int | None = None
    anneal: Anneal | None = None

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ReweightingError(f"total_steps is {self.total_steps}; it must be the planned number of steps")
        if math.isnan(self.temperature) or self.temperature < 0:
            raise ReweightingError(f"temperature is {self.temperature}; it must be 0 or above (infinity is uniform)")
        if not 0 <= self.burn_in <= 1:
            raise ReweightingError(f"burn_in is {self.burn_in}; it must be a share of the run between 0 and 1")
        if self.burn_in_steps is not None and self.burn_in_steps < 0:
            raise ReweightingError(f"burn_in_steps is {self.burn_in_steps}; it must not be negative")

    def __call__(self, step: int) -> float:
        if step < 0:
            raise ReweightingError(f"step is {step}; it must not be negative")
        limit = self.burn_in_steps
        burning = step / self.total_steps < self.burn_in if limit is None else step < limit
        if burning:
            return math.inf
        return self.anneal(step) if self.anneal else float(self.temperature)
