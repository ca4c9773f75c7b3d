"""Cosines between every pool example's preconditioned gradient and every target's gradient at one checkpoint, without
projection.

All M target gradients stay in memory (M x P floats); for the pool, each layer's block is preconditioned inside the
hook, multiplied with that layer's target block, and dropped. Cost: the gradient pass plus M*P multiply-adds per
example. No projection noise, which at the published d = 8192 is as large as the signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from curate.influence.checkpoints import Checkpoint, check_names
from curate.influence.preconditioning import AdamRule, precondition, second_moment
from train.encoding import Encoded
from train.models import trainable
from train.per_example import Consumer, flat_gradients, iterate_gradients


@dataclass(frozen=True)
class TargetGradients:
    """Unit gradients of the targets at one checkpoint: parameter name -> (M, size) float32; unusable targets with a
    reason."""

    blocks: dict[str, torch.Tensor]
    excluded: dict[str, str]


@dataclass(frozen=True)
class Cosines:
    """One checkpoint's scores.

    values: (N, M) float32, rows and columns in the caller's order, NaN where a row or column was excluded;
    excluded: id -> reason; small_v_share: share of coordinates with v' below eps, over the pool (tells how far the
    `less` rule is from real Adam).
    """

    values: np.ndarray
    excluded: dict[str, str] = field(default_factory=dict)
    small_v_share: float = 0.0


def target_gradients(model: Any, targets: Sequence[Encoded], pad_id: int, tokens_per_batch: int) -> TargetGradients:
    """Plain (not preconditioned) gradients of the targets, scaled to length 1 over all parameters."""
    blocks = flat_gradients(model, targets, pad_id, tokens_per_batch)
    squares = sum(block.double().square().sum(dim=1) for block in blocks.values())
    norms = torch.as_tensor(squares).sqrt()
    bad = ~torch.isfinite(norms) | (norms == 0)
    excluded = {targets[i].id: f"target gradient has norm {norms[i].item()}" for i in bad.nonzero().flatten().tolist()}
    scale = torch.where(bad, torch.nan, 1 / norms).float().unsqueeze(1)
    return TargetGradients({name: block * scale for name, block in blocks.items()}, excluded)


def pool_cosines(
    model: Any,
    checkpoint: Checkpoint,
    pool: Sequence[Encoded],
    targets: TargetGradients,
    pad_id: int,
    *,
    rule: AdamRule = "less",
    tokens_per_batch: int = 4096,
    on_batch: Callable[[int], None] = lambda rows_done: None,
) -> Cosines:
    """cos(U_i, g_j) for every pool row i and target j, (N, M) float32, at the adapter that `model` holds."""
    check_names(checkpoint, trainable(model))
    device = model.device
    transposed = {name: block.T.contiguous().to(device) for name, block in targets.blocks.items()}
    m = {name: values.to(device) for name, values in checkpoint.m.items()}
    v = {name: values.to(device) for name, values in checkpoint.v.items()}
    columns = next(iter(transposed.values())).shape[1]
    dots = torch.zeros(len(pool), columns, dtype=torch.float64)
    squares = torch.zeros(len(pool), dtype=torch.float64)
    plain = torch.zeros(len(pool), dtype=torch.float64)
    small = torch.zeros((), dtype=torch.int64, device=device)

    def start_batch(positions: list[int]) -> Consumer:
        def consume(name: str, block: torch.Tensor) -> None:
            nonlocal small
            g = block.flatten(1)
            v1 = second_moment(g, v[name], checkpoint.betas[1])
            small.add_((v1 < checkpoint.eps).sum())
            u = precondition(
                g,
                m[name],
                v[name],
                step=checkpoint.step,
                rule=rule,
                betas=checkpoint.betas,
                eps=checkpoint.eps,
                second=v1,
            )
            dots[positions] += (u @ transposed[name]).double().cpu()
            squares[positions] += torch.linalg.vector_norm(u, dim=1).double().square().cpu()
            plain[positions] += torch.linalg.vector_norm(g, dim=1).double().square().cpu()

        return consume

    iterate_gradients(model, pool, pad_id, tokens_per_batch, start_batch, on_batch)
    norms = squares.sqrt()
    # a row without a gradient would still get the checkpoint's momentum as its feature
    bad = ~torch.isfinite(norms) | (norms == 0) | (plain == 0)
    values = (dots / norms.masked_fill(bad, math.nan).unsqueeze(1)).float().numpy()
    excluded = {
        pool[i].id: f"gradient has norm {plain[i].sqrt().item()}, preconditioned {norms[i].item()}"
        for i in bad.nonzero().flatten().tolist()
    }
    size = sum(block.shape[0] for block in transposed.values())
    return Cosines(values, excluded | targets.excluded, float(small) / max(1, len(pool) * size))
