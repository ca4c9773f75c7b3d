"""Domain probabilities from domain sizes: temperature, scalarization weights, UniMax.

A temperature flattens a lopsided mixture by one number: tau = 1 is proportional, tau = infinity uniform. It is computed
as a softmax of log sizes, so sizes of 1 and 10^12 side by side stay finite. Cost: O(K) for K domains.
"""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.waterfill import water_fill


class MixtureError(ValueError):
    """A mixture setting or state that cannot be used."""


def check_tau(tau: float) -> float:
    """Return tau as a float; MixtureError unless tau > 0 (infinity allowed)."""
    value = float(tau)
    if math.isnan(value) or value <= 0:
        raise MixtureError(f"tau is {tau}; it must be above 0 (1 is proportional, infinity is uniform)")
    return value


def checked_sizes(sizes: ArrayLike) -> NDArray[np.float64]:
    """Return domain sizes as (K,) float64; MixtureError unless finite, not negative and not all zero."""
    array = np.asarray(sizes, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise MixtureError(f"sizes has shape {array.shape}; it must be one number per domain, at least one domain")
    bad = np.flatnonzero(~np.isfinite(array) | (array < 0))
    if bad.size:
        raise MixtureError(f"sizes of domains {bad.tolist()} are negative or not finite; give counts of examples")
    if not array.any():
        raise MixtureError("every domain has size 0; there is nothing to draw from")
    return array


def temperature_probabilities(sizes: ArrayLike, tau: float) -> NDArray[np.float64]:
    """Share of each domain, p(i; tau) = |D_i|^(1/tau) / sum_j |D_j|^(1/tau).

    Source: arXiv 2410.04579. sizes: (K,) counts of examples or tokens. tau: 1 proportional, infinity uniform; below 1
    is sharper than proportional and warns. A domain of size 0 gets probability 0 and a warning that lists it.
    Returns (K,) float64 with sum 1. Raises MixtureError on tau <= 0 or NaN and on unusable sizes.
    """
    tau = check_tau(tau)
    array = checked_sizes(sizes)
    if tau < 1:
        warnings.warn(f"tau {tau:g} is below 1: large domains get more than their proportional share", stacklevel=2)
    present = array > 0
    if not present.all():
        empty = np.flatnonzero(~present).tolist()
        warnings.warn(f"domains {empty} are empty and get probability 0", stacklevel=2)
    if tau == 1:
        return array / array.sum()
    p = np.zeros_like(array)
    logs = np.log(array[present])
    p[present] = np.exp((logs - logs.max()) / tau)  # tau = infinity: exp(0) = 1 for each
    return p / p.sum()


def scalarization_weights(sizes: ArrayLike, tau: float) -> NDArray[np.float64]:
    """Loss weight of each domain that gives proportional draws the objective of temperature sampling.

    w_i = p(i; tau) / p(i; 1), so that sum_i p(i; 1) w_i = 1. Source: arXiv 2410.04579. Use it *instead of* temperature
    sampling, never with it: both together give p(i; tau) * w_i. As the only weight do not renormalise it per batch.
    Returns (K,) float64; an empty domain gets 0.
    """
    flat = temperature_probabilities(sizes, tau)
    proportional = checked_sizes(sizes)
    proportional = proportional / proportional.sum()
    return np.divide(flat, proportional, out=np.zeros_like(flat), where=proportional > 0)


def variance_factor(sizes: ArrayLike, tau: float) -> float:
    """F(tau) = sum_i p(i; tau)^2 / p(i; 1) >= 1: how much noisier scalarization is than sampling at this temperature.

    Source: arXiv 2410.04579 (theorem), under its assumption of one common squared gradient norm for all domains.
    """
    return float(np.sum(temperature_probabilities(sizes, tau) * scalarization_weights(sizes, tau)))


def unimax_probabilities(sizes: ArrayLike, max_epochs: float, draws: float) -> NDArray[np.float64]:
    """Uniform shares, no domain repeated more than `max_epochs` times over `draws` examples.

    Source: arXiv 2304.09151. Where even `max_epochs` of everything is fewer than `draws`, the shares are proportional.
    Returns (K,) float64 with sum 1.
    """
    array = checked_sizes(sizes)
    if not max_epochs > 0 or not draws > 0:
        raise MixtureError(f"max_epochs {max_epochs} and draws {draws} must both be above 0")
    allowance = max_epochs * array
    x = allowance if allowance.sum() < draws else water_fill(np.ones_like(array), allowance, draws)
    return x / x.sum()
