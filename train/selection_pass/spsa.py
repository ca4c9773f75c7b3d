"""Coreset features: slopes of each example's loss in a few random directions (coreset spec, `spsa`).

Two replays per direction and no backward pass. The published single direction ranks examples by one scalar; its
distances were measured at chance inside a source, and m directions cost 2m replays, so the exact gradient of
`last_layer` is cheaper from about three directions on. The perturbation is added to the map's output (W x + eps z x),
never to the parameters, which so stay the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.encoding import Encoded
from train.mixture.generators import keyed_generator
from train.selection_pass.prefix import SelectionPass


def directions(shape: tuple[int, ...], count: int, seed: int) -> list[torch.Tensor]:
    """`count` standard normal directions of a weight's shape, float32; the same for the whole run and every process."""
    return [
        torch.from_numpy(keyed_generator(seed, "spsa direction", k).standard_normal(shape)).float()
        for k in range(count)
    ]


def spsa_features(
    selection: SelectionPass, rows: Sequence[Encoded], along: Sequence[torch.Tensor], epsilon: float = 1e-3
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, m) float32 slopes (L(W + eps z) - L(W - eps z)) / (2 eps), and (N,) float32 losses: means of (L+ + L-) / 2.

    along: m directions of the value map's weight. Source: arXiv 2407.19580; MeZO, arXiv 2305.17333.
    """
    module = selection.value_map.module
    step: list[torch.Tensor] = []

    def perturb(_module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + torch.nn.functional.linear(args[0], step[0].to(args[0].dtype))

    features = torch.zeros(len(rows), len(along))
    losses = torch.zeros(len(rows))
    handle = module.register_forward_hook(perturb)
    try:
        with torch.no_grad():
            for positions, replay in selection.batches(rows):
                for k, z in enumerate(along):
                    shift = epsilon * z.to(module.weight.device)
                    step[:] = [shift]
                    above = replay()
                    step[:] = [-shift]
                    below = replay()
                    features[positions, k] = ((above - below) / (2 * epsilon)).cpu()
                    losses[positions] += ((above + below) / (2 * len(along))).cpu()
    finally:
        handle.remove()
    return features, losses
