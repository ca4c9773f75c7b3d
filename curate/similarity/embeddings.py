"""Representation similarity (RDS): cosine between the model's last-layer vectors of a pool row and of a target.

One forward pass of the decoder per row and no logits (the head is not run). The vector is the hidden state of the last
token, after the final norm, under the warmed-up model's last checkpoint; BIDS (arXiv 2501.12147) does not say which
layer output or checkpoint. The pool's vectors are multiplied with the targets' batch by batch and dropped, so memory
is the (N, M) result; `nearest_target` gives only the row maximum where even that is too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from train.encoding import Encoded, collate, token_budget_batches

Pooling = Literal["last", "mean"]
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
    for positions, vectors in _batches(model, pool, pad_id, pooling, tokens_per_batch):
        scores[positions] = vectors @ across
        on_batch(len(positions))
    return scores


def unit_vectors(
    model: Any, rows: Sequence[Encoded], pad_id: int, *, pooling: Pooling = "last", tokens_per_batch: int = 4096
) -> np.ndarray:
    """(N, H) float32 vectors of length 1; NaN in the rows whose vector is zero or not finite."""
    found = np.empty((len(rows), int(model.config.hidden_size)), dtype=np.float32)
    for positions, vectors in _batches(model, rows, pad_id, pooling, tokens_per_batch):
        found[positions] = vectors
    return found


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


def _batches(
    model: Any, rows: Sequence[Encoded], pad_id: int, pooling: Pooling, tokens_per_batch: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(positions, (b, H) float32 unit vectors), longest rows first, in evaluation mode and without a graph."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = causal.base_model  # what the language-model head stands on, adapted layers included
    was_training = model.training
    model.eval()
    try:
        for positions in token_budget_batches([len(row.input_ids) for row in rows], tokens_per_batch):
            batch = {key: v.to(model.device) for key, v in collate([rows[i] for i in positions], pad_id).items()}
            mask = batch["attention_mask"]
            with torch.inference_mode():
                states = decoder(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).last_hidden_state
                vectors = _unit(_pool(states, mask, pooling)).cpu().numpy()
            yield positions, vectors
    finally:
        model.train(was_training)


def _pool(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(b, H) float64 of (b, T, H) states: the last token's, or the mean over all tokens; padding is on the right."""
    lengths = mask.sum(dim=1)
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1].double()
    # not by multiplication: NaN in a padded position must stay outside
    return states.double().masked_fill(mask.unsqueeze(2) == 0, 0.0).sum(dim=1) / lengths.unsqueeze(1)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    bad = ~torch.isfinite(norms) | (norms == 0)
    return (vectors / norms).masked_fill(bad, torch.nan).float()
