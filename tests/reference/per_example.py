"""Oracle of train.losses and train.per_example: one example at a time, no padding, no hooks, plain autograd."""

from __future__ import annotations

from typing import Any

import torch

from train.encoding import IGNORED, Encoded


def loss(model: Any, row: Encoded) -> torch.Tensor:
    """Mean of -log p(label) over the labelled positions after the first, position by position."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].float()
    terms = [
        -torch.log_softmax(logits[t - 1], dim=-1)[row.labels[t]]
        for t in range(1, len(row.labels))
        if row.labels[t] != IGNORED
    ]
    return torch.stack(terms).sum() / len(terms)


def gradient(model: Any, row: Encoded) -> dict[str, torch.Tensor]:
    """Parameter name -> flat gradient of this example's loss, evaluation mode."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts = torch.autograd.grad(loss(model, row), list(named.values()))
    return {name: part.flatten() for name, part in zip(named, parts, strict=True)}
