"""Medoids by greedy facility location: a few rows that lie close to all rows.

Plain greedy in float64 with a tie tolerance: exact mathematical ties are common in one dimension, and without it float
noise would choose. Greedy is within 1 - 1/e of the best objective. Cost: O(n^2) memory and O(budget * n^2) time,
25 ms for 128 of 256 rows on one core and less when a pool has several sources; not meant for whole datasets.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.coreset.composition import CoresetError

TIE_TOLERANCE = 1e-9


def facility_location(
    features: ArrayLike, budget: int, metric: str = "l1"
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Pick `budget` rows that maximise sum_i max over picks of similarity S = max(D) - D.

    Source: arXiv 2407.19580; spec "coreset", section 6. features: (n, p) or (n,), finite; sort rows by a stable id, the
    lowest row wins a tie. metric: "l1", or "cosine" (shifted so that the smallest similarity is 0).
    Returns picks (k,) int64 in the order picked, gains (k,) float64 and cluster sizes (k,) int64, k = min(budget, n).
    A cluster is the rows whose most similar pick it is (ties: earliest pick; a pick counts itself).
    Raises CoresetError on non-finite features, a negative budget or an unknown metric.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or budget < 0:
        raise CoresetError(f"features has shape {x.shape}, budget is {budget}; give (n, p) features and a budget >= 0")
    if not np.isfinite(x).all():
        raise CoresetError(f"features of rows {np.flatnonzero(~np.isfinite(x).all(axis=1)).tolist()} are not finite")
    n, k = x.shape[0], min(int(budget), x.shape[0])
    picks, gains = np.empty(k, dtype=np.int64), np.empty(k)
    if k == 0:
        return picks, gains, np.empty(0, dtype=np.int64)
    similarity = _similarity(x, metric)
    covered = np.zeros(n)
    open_rows = np.ones(n, dtype=bool)
    for j in range(k):
        gain = np.maximum(similarity - covered[:, None], 0.0).sum(axis=0)
        best = gain[open_rows].max()
        picks[j] = np.flatnonzero(open_rows & (gain >= best - TIE_TOLERANCE * max(1.0, abs(best))))[0]
        gains[j] = gain[picks[j]]
        covered = np.maximum(covered, similarity[:, picks[j]])
        open_rows[picks[j]] = False
    to_picks = similarity[:, picks]
    best_similarity = to_picks.max(axis=1, keepdims=True)
    near = to_picks >= best_similarity - TIE_TOLERANCE * np.maximum(1.0, best_similarity)
    owner = near.argmax(axis=1)
    owner[picks] = np.arange(k)
    return picks, gains, np.bincount(owner, minlength=k).astype(np.int64)


def _similarity(x: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    if metric == "l1":
        from scipy.spatial.distance import cdist

        distance = cdist(x, x, "cityblock")
        return distance.max() - distance
    if metric == "cosine":
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if not norms.all():
            raise CoresetError(f"rows {np.flatnonzero(norms == 0).tolist()} are zero and have no direction; drop them")
        unit = x / norms
        cosine = unit @ unit.T
        return cosine - cosine.min()
    raise CoresetError(f"metric {metric!r} is unknown; choose l1 or cosine")
