"""From shares to whole counts: which integer number of examples of each domain a pool gets.

Systematic rounding is unbiased in every pool and within one example of B p, where categorical draws would scatter by
sqrt(B p (1 - p)). Carrying the remainder to the next pool is deterministic and keeps the whole run within about one
example, which an epoch cap may want. Cost: O(K) per pool.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDINGS = ("systematic", "carry")


def systematic_counts(probabilities: ArrayLike, pool_size: int, u: float) -> NDArray[np.int64]:
    """Split `pool_size` draws over domains: n_k = ceil(c_k - u) - ceil(c_{k-1} - u), c_k = B * (p_1 + .. + p_k).

    u: uniform in [0, 1). Returns (K,) int64 with sum B, |n_k - B p_k| < 1 and mean B p_k over u.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    marks = np.minimum(np.ceil(np.concatenate([[0.0], np.cumsum(p)]) * pool_size - u), pool_size)
    # Exact where rounding is not: B - u rounds down for u next to 1, and trailing domains of probability 0 get none.
    marks[np.flatnonzero(p)[-1] + 1 :] = pool_size
    return np.diff(marks).astype(np.int64)


def carry_counts(stretches: Iterable[tuple[NDArray[np.float64], int]], pool_size: int) -> NDArray[np.int64]:
    """(T, K) counts of every pool of a run; each pool sums to `pool_size`.

    Source: spec "mixture", section 4, option carry: d += B p; n = max(floor(d), 0); units that are missing go to the
    largest d - n, units too many come back from the smallest d - n with n > 0 (ties: lowest domain); d -= n.
    stretches: (probabilities (K,), number of steps) in time order.
    """
    counts, owed = [], None
    for probabilities, steps in stretches:
        for _ in range(steps):
            owed = pool_size * probabilities + (0.0 if owed is None else owed)
            n = np.maximum(np.floor(owed), 0.0)
            missing = round(pool_size - n.sum())
            for _ in range(missing):
                n[np.argmax(owed - n)] += 1
            for _ in range(-missing):
                n[np.argmin(np.where(n > 0, owed - n, np.inf))] -= 1
            owed = owed - n
            counts.append(n.astype(np.int64))
    return np.array(counts, dtype=np.int64)
