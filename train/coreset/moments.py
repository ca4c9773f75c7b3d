"""Adam normalisation of per-example features, the coordinate mask, and the history both rest on.

Distances between raw gradients follow the few largest coordinates; dividing each by its running second moment makes
them comparable, as Adam does for the update itself. The history is a mean over selected examples, so it is linear in
their features and squares: no per-example moments are ever stored. Cost: O(n p) for n examples of one source.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def adam_normalised(
    features: ArrayLike,
    m_hist: ArrayLike,
    v_hist: ArrayLike,
    t: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> NDArray[np.float64]:
    """u_i = (m_i / (1 - b1^t)) / (sqrt(v_i / (1 - b2^t)) + eps): each example continues the shared history by a step.

    Source: arXiv 2407.19580 with standard Adam correction (raw moments stored, corrected on use); spec "coreset",
    section 5. features: (n, p). m_hist, v_hist: (p,) raw moments. t: history updates so far + 1, >= 1.
    Returns (n, p) float64.
    """
    f = np.asarray(features, dtype=np.float64)
    m = beta1 * np.asarray(m_hist, dtype=np.float64) + (1 - beta1) * f
    v = beta2 * np.asarray(v_hist, dtype=np.float64) + (1 - beta2) * f * f
    return (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


def updated_history(
    selected: ArrayLike, m_hist: ArrayLike, v_hist: ArrayLike, beta1: float = 0.9, beta2: float = 0.999
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw moments (p,), (p,) after a step: the means of m_i and v_i over the selected examples' features (n, p)."""
    f = np.asarray(selected, dtype=np.float64)
    m = beta1 * np.asarray(m_hist, dtype=np.float64) + (1 - beta1) * f.mean(axis=0)
    v = beta2 * np.asarray(v_hist, dtype=np.float64) + (1 - beta2) * (f * f).mean(axis=0)
    return m, v


def masked(normalised: ArrayLike, size: int | None) -> NDArray[np.float64]:
    """Keep the `size` coordinates of one source with the largest |mean over its examples| (ties: lowest coordinate).

    normalised: (n, p) of one source; distances are only taken inside a source, so sources keep different coordinates.
    Returns (n, min(size, p)), coordinates in ascending order; everything when size is None.
    """
    u = np.asarray(normalised, dtype=np.float64)
    if size is None or size >= u.shape[1]:
        return u
    importance = np.abs(u.mean(axis=0))
    return u[:, np.sort(np.argsort(-importance, kind="stable")[:size])]
