"""Per-example losses of one padded batch, with logits at the labelled positions only.

The head is often half of a small model's work and most of a batch's memory, and a prompt's logits enter no loss. A hook
gives the head the labelled positions and nothing else, so every family's own code (soft caps, logit scales) runs as it
is. Loss kernels that fuse head and cross-entropy give no loss per example and are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train.encoding import IGNORED, Encoded, collate
from train.losses import mean_by_example, per_example_loss


def batch_losses(
    model: Any, rows: Sequence[Encoded], pad_id: int, device: torch.device | str, head: torch.nn.Module | None
) -> torch.Tensor:
    """(B,) float32 losses, with a graph where gradients are enabled; NaN for a row without a label.

    model: what is called, wrapped for several processes or not. head: its output embedding, or None to form all logits.
    """
    batch = {key: value.to(device) for key, value in collate(rows, pad_id).items()}
    labels = batch.pop("labels")
    if head is None:
        return per_example_loss(model(**batch, use_cache=False).logits, labels)[0]
    targets = labels[:, 1:]
    owners, columns = (targets != IGNORED).nonzero(as_tuple=True)

    def labelled_only(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (inputs[0][owners, columns].unsqueeze(0),)

    handle = head.register_forward_pre_hook(labelled_only)
    try:
        logits = model(**batch, use_cache=False).logits
    finally:
        handle.remove()
    return mean_by_example(logits[0], targets[owners, columns], owners, len(rows))[0]


@contextmanager
def frozen_evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter asks for a gradient; both as before afterwards."""
    was_training = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        model.train(was_training)
