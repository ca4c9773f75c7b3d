"""Water filling: share a total in proportion to weights without any share passing its allowance.

One algorithm serves every cap of the training floor: epochs per domain (mixture) and the largest weight of an example
(reweighting). It is exact, not iterative clipping: each round fixes the shares that would overflow and scales the rest.
Cost: at most K rounds over K numbers; the usual case takes two or three.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEASIBILITY_TOLERANCE = 1e-9  # relative; allowances are often what earlier fillings left over, hence rounded


class WaterFillError(ValueError):
    """The weights, allowances or total cannot be filled."""


def water_fill(weights: ArrayLike, allowances: ArrayLike, draws: float) -> NDArray[np.float64]:
    """Allocate `draws` in proportion to `weights` subject to x_i <= allowance_i.

    Source: spec "mixture", section 3 (S grows by every i with lambda * q_i > a_i until none is added).

    weights: (K,) finite, >= 0, any scale. allowances: (K,) >= 0, infinity allowed. draws: total to allocate, >= 0.
    Where only zero weights are left below their allowance, the rest is shared equally among them.
    Returns x: (K,) float64, sum x = draws. Raises WaterFillError when sum(allowances) < draws or an input is invalid.
    """
    q = np.asarray(weights, dtype=np.float64)
    a = np.asarray(allowances, dtype=np.float64)
    if q.ndim != 1 or q.shape != a.shape or q.size == 0:
        raise WaterFillError(f"weights {q.shape} and allowances {a.shape} must be one-dimensional, equal and not empty")
    if not np.isfinite(q).all() or (q < 0).any():
        raise WaterFillError("weights must be finite and not negative; remove or repair the offending entries")
    if np.isnan(a).any() or (a < 0).any():
        raise WaterFillError("allowances must not be negative or NaN; use infinity for no limit")
    if not np.isfinite(draws) or draws < 0:
        raise WaterFillError(f"draws is {draws}; it must be finite and not negative")
    if draws - a.sum() > FEASIBILITY_TOLERANCE * max(1.0, draws):
        raise WaterFillError(f"infeasible: the allowances sum to {a.sum():g}, below the {draws:g} draws to allocate")

    full = np.zeros(q.size, dtype=bool)
    x = a.copy()
    while not full.all():
        rest = max(draws - a[full].sum(), 0.0)
        share = q[~full]
        # Dividing by the maximum first keeps weights that are all denormal numbers in range.
        share = share / share.max() if share.max() > 0 else np.ones_like(share)
        x[~full] = rest * (share / share.sum())
        overflow = ~full & (x > a)
        if not overflow.any():
            break
        full |= overflow
        x[full] = a[full]
    return x
