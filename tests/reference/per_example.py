"""Oracle of train.losses and train.per_example: one example at a time, no padding, no hooks, plain autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from train.encoding import IGNORED, Encoded


def loss(model: Any, row: Encoded, left_padding: int = 0, pad_id: int = 0) -> torch.Tensor:
    """Mean of -log p(label) over the labelled positions after the first, position by position.

    left_padding: tokens put before the row; the real ones keep their position numbers.
    """
    ids = torch.tensor([[pad_id] * left_padding + row.input_ids])
    if left_padding:
        positions = (torch.arange(ids.shape[1]) - left_padding).clamp(min=0).unsqueeze(0)
        mask = (torch.arange(ids.shape[1]) >= left_padding).long().unsqueeze(0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, left_padding:].float()
    else:
        logits = model(input_ids=ids).logits[0].float()
    terms = [
        -torch.log_softmax(logits[t - 1], dim=-1)[row.labels[t]]
        for t in range(1, len(row.labels))
        if row.labels[t] != IGNORED
    ]
    return torch.stack(terms).sum() / len(terms)


def gradient(model: Any, row: Encoded, left_padding: int = 0) -> dict[str, torch.Tensor]:
    """Name of a trainable parameter -> flat gradient of this example's loss, evaluation mode."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts = torch.autograd.grad(loss(model, row, left_padding), list(named.values()))
    return {name: part.flatten() for name, part in zip(named, parts, strict=True)}


def relative_error(mine: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """|mine - wanted| / |wanted| over all of wanted's parameters together."""
    difference = sum((mine[name] - wanted[name]).double().square().sum() for name in wanted)
    return float((difference / sum(part.double().square().sum() for part in wanted.values())).sqrt())
