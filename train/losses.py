"""The loss of one example: mean cross-entropy over its own trained tokens.

Everything else in Equipoise (influence, reweighting, coresets, held-out losses) is defined by this number, so it is
computed in one place: from float32 logits, divided by the example's own label count and never by the padded width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from train.encoding import IGNORED


def per_example_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean token cross-entropy of every example, and how many tokens it is the mean of.

    logits: (B, T, V) any float type; labels: (B, T) with -100 where nothing is trained; the shift by one happens here.
    Returns (B,) float32 losses in nats per token and (B,) int64 counts. An example without a label has the loss NaN:
    it is undefined, not zero.
    """
    targets = labels[:, 1:]
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)
    return mean_by_example(logits[rows, columns], targets[rows, columns], rows, len(labels))


def mean_by_example(
    logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, examples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from the labelled positions alone, so that the softmax runs over nothing else.

    logits: (L, V); targets: (L,) labels; rows: (L,) the example each belongs to.
    """
    token_losses = F.cross_entropy(logits.float(), targets, reduction="none")
    sums = torch.zeros(examples, dtype=torch.float32, device=logits.device).index_add(0, rows, token_losses)
    counts = torch.bincount(rows, minlength=examples)
    return sums / counts, counts
