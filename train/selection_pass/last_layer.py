"""Coreset features: the exact per-example gradient of the last value projection's LoRA B (coreset spec, `last_layer`).

The graph starts at that map's output, so a batch costs its prefix, one replay and the backward pass of one layer's
remainder. The losses fall out for free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.encoding import Encoded
from train.selection_pass.prefix import SelectionPass


def last_layer_features(selection: SelectionPass, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, out * r) float32 gradients and (N,) float32 losses, in evaluation mode, on the CPU."""
    module = selection.value_map.module
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def start_graph_here(_module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_(True)
        inputs.append(args[0].detach())
        outputs.append(leaf)
        return leaf

    features = torch.zeros(len(rows), module.weight.numel())
    losses = torch.zeros(len(rows))
    handle = module.register_forward_hook(start_graph_here)
    try:
        for positions, replay in selection.batches(rows):
            inputs.clear()
            outputs.clear()
            with torch.enable_grad():
                values = replay()
            # the last call is the batch's: DoRA first takes the norm of an identity through the same map
            (gradient,) = torch.autograd.grad(values.sum(), outputs[-1])
            block = torch.bmm(gradient.float().transpose(1, 2), inputs[-1].float())
            features[positions] = block.flatten(1).cpu()
            losses[positions] = values.detach().cpu()
    finally:
        handle.remove()
    return features, losses
