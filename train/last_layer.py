"""Coreset features: the exact per-example gradient of the last value projection's LoRA B (coreset spec, `last_layer`).

The autograd graph starts at that map's output, so one pass costs a full forward and the backward of one layer's
remainder. The losses fall out for free.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from train.encoding import Encoded, collate, token_budget_batches
from train.losses import per_example_loss


class NoValueProjectionError(ValueError):
    """The model has no separate, adapted value projection to take features from."""


def last_value_map(model: torch.nn.Module) -> torch.nn.Linear:
    """The LoRA B map of `v_proj` in the last decoder layer."""
    found: dict[int, torch.nn.Linear] = {}
    for name, module in model.named_modules():
        match = re.search(r"\.(\d+)\.[^.]+\.v_proj\.lora_B\.default$", name)
        if match and isinstance(module, torch.nn.Linear):
            found[int(match.group(1))] = module
    if not found:
        raise NoValueProjectionError(
            "coreset.feature last_layer needs a LoRA on `v_proj`; this model has none (fused projections, or "
            "lora.targets leaves it out). Add v_proj to lora.targets or use coreset.feature: random."
        )
    return found[max(found)]


def last_layer_features(model: Any, rows: Sequence[Encoded], pad_id: int, tokens_per_batch: int = 8192) -> torch.Tensor:
    """(N, out*r) float32 gradients, in evaluation mode, without touching the parameters or the global random state."""
    module = last_value_map(model)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def start_graph_here(_module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_(True)
        inputs.append(args[0].detach())
        outputs.append(leaf)
        return leaf

    features = torch.zeros(len(rows), module.weight.numel())
    was_training = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    handle = module.register_forward_hook(start_graph_here)
    model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        for positions in token_budget_batches([len(row.input_ids) for row in rows], tokens_per_batch):
            inputs.clear()
            outputs.clear()
            batch = {
                key: value.to(model.device) for key, value in collate([rows[i] for i in positions], pad_id).items()
            }
            labels = batch.pop("labels")
            with torch.enable_grad():
                losses, _ = per_example_loss(model(**batch, use_cache=False).logits, labels)
            # the last call is the batch's: DoRA first takes the norm of an identity through the same map
            (gradient,) = torch.autograd.grad(losses.sum(), outputs[-1])
            block = torch.bmm(gradient.float().transpose(1, 2), inputs[-1].float())
            features[positions] = block.flatten(1).cpu()
    finally:
        handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(True)
        model.train(was_training)
    return features
