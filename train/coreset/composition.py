"""The make-up of a core: which sources are always kept, and how many examples each other source may send.

Composition is the part of CoLM that measurably matters, so it stands alone from the ranking inside a source: random
picks with the same make-up are the control. A cap on the kept share is ours; without it a high sampling temperature
fills the core with small sources alone. Cost: O(pool size).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUOTA_METHODS = ("proportional", "largest_remainder", "balanced")
SMALL_MARGIN = 1e-12  # a source of exactly average share is not small, whatever the rounding


class CoresetError(ValueError):
    """A coreset setting, state or input that cannot be used."""


def quotas(
    sizes: ArrayLike, budget: int, method: str = "proportional", generator: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """How many of `budget` picks each source gets.

    Source: arXiv 2407.19580, reference rounding. "proportional": base = n * budget // N; the missing units go one each
    to the sources with the smallest base (ties: first source). "largest_remainder" gives them to the largest
    fractional parts instead. "balanced": equal shares, what is missing to `generator`'s choice of sources. sizes: (Q,)
    candidates per source. Returns (Q,) int64, none above its size, with sum min(budget, N). Raises CoresetError on
    negative numbers or an unknown method.
    """
    n = np.asarray(sizes, dtype=np.int64)
    if n.ndim != 1 or (n < 0).any() or budget < 0:
        raise CoresetError(f"sizes {n.tolist()} and budget {budget} must be counts, none negative")
    if method not in QUOTA_METHODS:
        raise CoresetError(f"quota method {method!r} is unknown; choose {', '.join(QUOTA_METHODS)}")
    total = int(n.sum())
    if budget >= total:
        return n.copy()
    if method == "balanced":
        return _equal_shares(n, budget, generator)
    base, remainder = np.divmod(n * budget, total)
    rank = base if method == "proportional" else -remainder
    first = [q for q in np.argsort(rank, kind="stable") if base[q] < n[q]]
    base[first[: budget - int(base.sum())]] += 1
    return base


def _equal_shares(sizes: NDArray[np.int64], budget: int, generator: np.random.Generator | None) -> NDArray[np.int64]:
    level = 0
    while np.minimum(sizes, level + 1).sum() <= budget:
        level += 1
    shares = np.minimum(sizes, level)
    able = np.flatnonzero(sizes > level)
    order = able if generator is None else generator.permutation(able)
    shares[order[: budget - int(shares.sum())]] += 1
    return shares


def small_sources(probabilities: ArrayLike) -> NDArray[np.bool_]:
    """Sources (c,) drawn less often than the average source: q < 1/c - 1e-12.

    With proportional sampling this is the published rule |D_s| < |V| / c (arXiv 2407.19580).
    """
    q = np.asarray(probabilities, dtype=np.float64)
    return q < 1.0 / q.size - SMALL_MARGIN


def floor_share(share: float, whole: int) -> int:
    """floor(share * whole) for decimal shares: 0.29 of 100 is 29, not the 28 that binary rounding gives."""
    return math.floor(share * whole + 1e-9)


def kept_order(
    sources: NDArray[np.int64], small: NDArray[np.bool_], rows: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Pool positions of all examples of small sources, in the order in which they are kept.

    Round robin over the small sources by ascending id, random inside a source. sources, rows: (B,).
    """
    turns: list[tuple[int, int, int]] = []
    for source in np.flatnonzero(small):
        members = np.flatnonzero(sources == source)
        members = members[np.argsort(rows[members], kind="stable")]
        turns += [(turn, int(source), int(p)) for turn, p in enumerate(generator.permutation(members))]
    return np.array([position for _, _, position in sorted(turns)], dtype=np.int64)


def kept_count(small_count: int, pool_size: int, core_size: int, kappa: float) -> int:
    """How many examples of small sources are kept: all, or floor(kappa * b), or more where big sources run short."""
    limit = floor_share(kappa, core_size)
    if small_count <= limit:
        return small_count
    big = pool_size - small_count
    return min(small_count, max(limit, core_size - big))


def kept_examples(
    sources: ArrayLike,
    small: ArrayLike,
    core_size: int,
    kappa: float,
    generator: np.random.Generator,
    rows: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Pool positions (ascending, int64) of the small-source examples that are always trained.

    sources: (B,) source index of each pool example. small: (c,) bool. core_size: b. kappa: largest kept share of b.
    rows: (B,) dataset index, which makes the choice independent of pool order (default: the position).
    """
    s = np.asarray(sources, dtype=np.int64)
    r = np.arange(s.size) if rows is None else np.asarray(rows, dtype=np.int64)
    order = kept_order(s, np.asarray(small, dtype=bool), r, generator)
    return np.sort(order[: kept_count(order.size, s.size, core_size, kappa)])
