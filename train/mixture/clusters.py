"""Domains for rows that name no source: k-means clusters of their vectors, by faiss.

The mixture needs labels, not truth: clusters of the base model's mean hidden states separate languages, code and
dialogue well enough to keep a batch from being all one of them. Cost: k-means over N vectors of the hidden size.
"""

from __future__ import annotations

import numpy as np

from train.mixture.probabilities import MixtureError

ITERATIONS = 25
ROWS_PER_CLUSTER = 39  # faiss warns below this many and learns little from fewer


def cluster_domains(vectors: np.ndarray, count: int, seed: int) -> list[str]:
    """A label for each of (N, H) float32 vectors: `cluster-00` is the largest, ties by the lowest row.

    Fewer than `count` clusters where there are fewer than 39 rows for each, or where some come out empty. The same
    vectors and seed give the same labels. Raises `MixtureError` where there is no row or a vector is not finite.
    """
    import faiss

    if vectors.ndim != 2 or not vectors.size:
        raise MixtureError(f"vectors has shape {vectors.shape}; give one vector per row, at least one row")
    if count < 1:
        raise MixtureError(f"clusters is {count}; it must be at least 1")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise MixtureError(f"rows {bad[:5].tolist()} have no finite vector, so they cannot be clustered; remove them")
    wanted = max(1, min(count, len(vectors) // ROWS_PER_CLUSTER))
    data = np.ascontiguousarray(vectors, dtype=np.float32)
    start = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS  # a random start may leave two clusters as one
    kmeans = faiss.Kmeans(data.shape[1], wanted, niter=ITERATIONS, seed=seed % 2**31, init_method=start)
    kmeans.train(data)
    nearest = kmeans.index.search(data, 1)[1][:, 0]
    found, first, sizes = np.unique(nearest, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    names = {int(found[k]): f"cluster-{rank:02d}" for rank, k in enumerate(order)}
    return [names[int(each)] for each in nearest]
