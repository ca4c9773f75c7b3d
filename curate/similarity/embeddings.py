"""Representation similarity (RDS): cosine between the model's last-layer vectors of a pool row and of a target.

One forward pass of the decoder per row and no logits (the head is not run). The vector is the hidden state of the last
token, after the final norm, under the warmed-up model's last checkpoint; BIDS (arXiv 2501.12147) does not say which
layer output or checkpoint. The pool's vectors are multiplied with the targets' batch by batch and dropped, so memory
is the (N, M) result; `nearest_target` gives only the row maximum where even that is too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from train.encoding import Encoded
from train.hidden_states import Pooling, unit_vector_batches, unit_vectors

NO_TARGET = -1


def embedding_scores(
    model: Any,
    pool: Sequence[Encoded],
    targets: Sequence[Encoded],
    pad_id: int,
    *,
    pooling: Pooling = "last",
    tokens_per_batch: int = 4096,
    on_batch: Callable[[int], None] = lambda rows_done: None,
) -> np.ndarray:
    """(N, M) float32 cosines, in the caller's order; NaN where a row's or target's vector is zero or not finite.

    model: a causal language model, with an adapter or not, on any device; tokens_per_batch: padded tokens of a forward
    pass. on_batch is told how many pool rows were done.
    """
    across = unit_vectors(model, targets, pad_id, pooling=pooling, tokens_per_batch=tokens_per_batch).T
    scores = np.empty((len(pool), len(targets)), dtype=np.float32)
    for positions, vectors in unit_vector_batches(model, pool, pad_id, pooling, tokens_per_batch):
        scores[positions] = vectors @ across
        on_batch(len(positions))
    return scores


def nearest_target(vectors: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float32 largest cosine of each row and (N,) int64 index of its target, by an exact inner-product index.

    vectors: (N, H) and targets: (M, H) unit vectors, as `unit_vectors` gives them. A NaN row gets NaN and `NO_TARGET`;
    NaN targets are never nearest. The row maximum of `vectors @ targets.T` without that matrix.
    """
    import faiss

    usable = np.flatnonzero(np.isfinite(targets).all(axis=1))
    rows = np.isfinite(vectors).all(axis=1)
    best = np.full(len(vectors), np.nan, dtype=np.float32)
    where = np.full(len(vectors), NO_TARGET, dtype=np.int64)
    if usable.size:
        index = faiss.IndexFlatIP(targets.shape[1])
        index.add(np.ascontiguousarray(targets[usable], dtype=np.float32))
        cosines, positions = index.search(np.ascontiguousarray(vectors[rows], dtype=np.float32), 1)
        best[rows], where[rows] = cosines[:, 0], usable[positions[:, 0]]
    return best, where
