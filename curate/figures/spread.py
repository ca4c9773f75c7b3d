"""How far apart rows lie: embeddings, and shares of sources or tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np


def mean_distance(vectors: np.ndarray) -> float:
    """Mean cosine distance (0 to 2) of all pairs of (N, H) unit vectors; NaN under two. O(N H), from the sum alone."""
    count = len(vectors)
    if count < 2:
        return float("nan")
    total = vectors.astype(np.float64).sum(axis=0)
    return float(1 - (total @ total - count) / (count * (count - 1)))


def vendi_score(vectors: np.ndarray) -> float:
    """Effective number of different rows of (N, H) unit vectors (Vendi score, arXiv 2210.02410): the exponential of the
    entropy of the eigenvalues of their cosine matrix over N. From 1 (all alike) to N."""
    if not len(vectors):
        return float("nan")
    exact = vectors.astype(np.float64)
    # the (H, H) matrix has the same eigenvalues but for zeros
    gram = exact @ exact.T if len(exact) <= exact.shape[1] else exact.T @ exact
    return _effective(np.linalg.eigvalsh(gram / len(exact)))


def effective_number(labels: Iterable[Hashable]) -> float:
    """The exponential of the entropy of the labels' shares: k for k labels of equal share; NaN without labels."""
    counts = np.array(list(Counter(labels).values()), dtype=np.float64)
    return _effective(counts / counts.sum()) if counts.size else float("nan")


def _effective(shares: np.ndarray) -> float:
    positive = shares[shares > 1e-12]  # eigenvalues that are zero come out as such noise
    return float(np.exp(-(positive * np.log(positive)).sum()))
