"""From rows to domains: which domain each row is in, what a domain weighs, and shares given by a domain's name.

Domains are ordered by name, whatever the order of the rows, so that equal data gives equal plans. Cost: O(N).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.mixture.probabilities import MixtureError


def domain_codes(domains: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The K domain names, sorted, and the (N,) index of each row's. MixtureError names a row without a text label."""
    bad = next((i for i, label in enumerate(domains) if not isinstance(label, str)), None)
    if bad is not None:
        raise MixtureError(f"row {bad}: domain is {domains[bad]!r}, not a text; fill the domain column")
    if not len(domains):
        raise MixtureError("domains is empty; the mixture needs at least one row")
    names = tuple(sorted(set(map(str, domains))))
    index = {name: k for k, name in enumerate(names)}
    return names, np.fromiter((index[label] for label in domains), dtype=np.int64, count=len(domains))


def domain_measures(row_sizes: ArrayLike, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum (K,) of the rows' sizes, such as tokens, in each domain. row_sizes: (N,), finite and not negative."""
    sizes = np.asarray(row_sizes, dtype=np.float64)
    if sizes.shape != codes.shape:
        raise MixtureError(f"row_sizes has shape {sizes.shape}; give one size for each of {codes.size} rows")
    bad = np.flatnonzero(~np.isfinite(sizes) | (sizes < 0))
    if bad.size:
        raise MixtureError(f"row {bad[0]}: size is {sizes[bad[0]]:g}; sizes must be finite and not negative")
    return np.bincount(codes, weights=sizes).astype(np.float64)


def static_vector(static: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Shares (K,) in the order of `names`, with sum 1. MixtureError unless they name exactly the domains."""
    if set(static) != set(names):
        raise MixtureError(f"static probabilities name {sorted(static)}, the data has {list(names)}; make them equal")
    p = np.array([static[name] for name in names], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(p) | (p < 0))
    if bad.size:
        k = int(bad[0])
        raise MixtureError(f"static probability of {names[k]} is {p[k]:g}; it must be finite and not negative")
    if not p.any():
        raise MixtureError("static probabilities are all 0; give at least one domain of the data a share")
    return p / p.sum()
