"""One vector per row from the decoder's last hidden states: what similarity and clusters compare.

One forward pass of the decoder and no logits (the head is not run), in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from train.encoding import Encoded, collate, token_budget_batches

Pooling = Literal["last", "mean"]


def unit_vectors(
    model: Any, rows: Sequence[Encoded], pad_id: int, *, pooling: Pooling = "last", tokens_per_batch: int = 4096
) -> np.ndarray:
    """(N, H) float32 vectors of length 1; NaN in the rows whose vector is zero or not finite."""
    found = np.empty((len(rows), int(model.config.hidden_size)), dtype=np.float32)
    for positions, vectors in unit_vector_batches(model, rows, pad_id, pooling, tokens_per_batch):
        found[positions] = vectors
    return found


def unit_vector_batches(
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
