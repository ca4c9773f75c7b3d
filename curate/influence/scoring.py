"""One pass over rows at one checkpoint: cosines with the targets, projected features, or both.

Inside the hooks each layer's block is preconditioned, multiplied with that layer's target block or sketched, and
dropped. Cost: the gradient pass, plus M*P multiply-adds per example for M targets, or O(P) for the sparse sketch.
Exact cosines carry no projection noise, which at the published d = 8192 is as large as the signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from curate.influence.preconditioning import Adam, Preconditioner
from curate.influence.projection import Projection
from train.encoding import Encoded
from train.per_example import Tap, flat_gradients, iterate_gradients
from train.settings import Precision

NO_USABLE_TARGET = "no target has a usable gradient: look at their answers and at the checkpoint's loss"


class InfluenceError(ValueError):
    """Influence that cannot be computed from these inputs; the message names the remedy."""


@dataclass(frozen=True)
class Engine:
    """A model at one checkpoint and how gradients are taken from it."""

    model: Any
    taps: Mapping[str, Tap]
    preconditioner: Preconditioner
    pad_id: int
    tokens_per_batch: int = 4096
    precision: Precision = "float32"
    on_batch: Callable[[int], None] = lambda rows_done: None
    on_halving: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class TargetGradients:
    """Unit gradients of the targets at one checkpoint: parameter name -> (size, M) float32, a NaN column where
    unusable; norms: (M,) before scaling; excluded: id -> reason."""

    blocks: dict[str, torch.Tensor]
    norms: np.ndarray
    excluded: dict[str, str]


@dataclass(frozen=True)
class RowScores:
    """What one pass leaves, rows in the caller's order, NaN where a row (or a column) was excluded.

    cosines: (n, M) float32 with the targets; features: (n, d) float32 unit rows; norms: (n,) float32 lengths of the
    preconditioned gradients; losses: (n,); excluded: row id -> reason; small_v_share: share of coordinates with v'
    below eps, over the first batch.
    """

    cosines: np.ndarray | None
    features: np.ndarray | None
    norms: np.ndarray
    losses: np.ndarray
    excluded: dict[str, str] = field(default_factory=dict)
    small_v_share: float | None = None


def target_gradients(engine: Engine, targets: Sequence[Encoded]) -> TargetGradients:
    """The targets' gradients as the preconditioner sees them, scaled to length 1 over all parameters.

    Raises `InfluenceError` when they do not fit in memory (exact mode keeps all M x P of them).
    """
    size = sum(tap.parameter.numel() for tap in engine.taps.values())
    needed, free = 4 * size * len(targets), free_bytes(engine.model.device)
    if needed > free:
        raise InfluenceError(
            f"exact mode keeps {len(targets)} target gradients of {size:,} numbers in memory: {needed / 2**30:.1f} GiB "
            f"of {free / 2**30:.1f} GiB free. Use influence.mode sketch, fewer targets, or layers top_half"
        )
    raw = flat_gradients(
        engine.model, targets, engine.pad_id, engine.tokens_per_batch, engine.taps, precision=engine.precision
    )
    squares = torch.zeros(len(targets), dtype=torch.float64)
    for name, tap in engine.taps.items():
        gradients = raw[name].view(-1, *tap.parameter.shape).to(engine.model.device)
        raw[name] = engine.preconditioner.target(name, gradients)
        squares += raw[name].double().square().sum(dim=1).cpu()
    norms = squares.sqrt()
    bad = ~torch.isfinite(norms) | (norms == 0)
    if bool(bad.all()):
        raise InfluenceError(NO_USABLE_TARGET)
    excluded = {targets[i].id: f"target gradient has norm {norms[i].item()}" for i in bad.nonzero().flatten().tolist()}
    scale = torch.where(bad, torch.nan, 1 / norms).float().to(engine.model.device)
    # laid out for the product with a batch, which is four times as fast, one parameter at a time: never two copies
    blocks = {name: raw.pop(name).T.contiguous().mul_(scale) for name in engine.taps}
    return TargetGradients(blocks, norms.float().numpy(), excluded)


def score_rows(
    engine: Engine,
    rows: Sequence[Encoded],
    targets: TargetGradients | None = None,
    projection: Projection | None = None,
    *,
    as_target: bool = False,
) -> RowScores:
    """Cosines of `rows` with `targets`, their projected unit features, or both in one pass.

    as_target: use the preconditioner's target side, for the targets' own features.
    """
    scores = _Scores(engine, rows, targets, projection, as_target)
    losses = iterate_gradients(
        engine.model,
        rows,
        engine.pad_id,
        engine.tokens_per_batch,
        engine.taps,
        scores.start_batch,
        precision=engine.precision,
        on_batch=engine.on_batch,
        on_halving=engine.on_halving,
    )
    return scores.result(losses)


class _Scores:
    """The arrays that batches write to, and what all batches share."""

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Encoded],
        targets: TargetGradients | None,
        projection: Projection | None,
        as_target: bool,
    ) -> None:
        self.rows, self.projection = rows, projection
        self.device = engine.model.device
        self.map = engine.preconditioner.target if as_target else engine.preconditioner.pool
        self.adam = engine.preconditioner if isinstance(engine.preconditioner, Adam) and not as_target else None
        self.targets = None if targets is None else targets.blocks
        self.columns = 0 if targets is None else len(targets.norms)
        self.cosines = None if targets is None else np.full((len(rows), self.columns), np.nan, dtype=np.float32)
        self.features = None if projection is None else np.full((len(rows), projection.dimension), np.nan, np.float32)
        self.norms = np.full(len(rows), np.nan, dtype=np.float32)
        self.excluded: dict[str, str] = {}
        self.small: tuple[int, int] | None = None

    def start_batch(self, positions: list[int]) -> _Batch:
        return _Batch(self, positions)

    def result(self, losses: torch.Tensor) -> RowScores:
        share = None if self.small is None else self.small[0] / max(1, self.small[1])
        return RowScores(self.cosines, self.features, self.norms, losses.numpy(), self.excluded, share)


class _Batch:
    """Sums of one batch over the layers; written to the shared arrays when the batch is complete."""

    def __init__(self, scores: _Scores, positions: list[int]) -> None:
        self.scores, self.positions = scores, positions
        count, device = len(positions), scores.device
        self.squares = torch.zeros(count, dtype=torch.float64, device=device)
        self.plain = torch.zeros(count, dtype=torch.float64, device=device)
        self.dots = torch.zeros(count, scores.columns, device=device) if scores.targets is not None else None
        self.sketched = torch.zeros(count, scores.projection.dimension, device=device) if scores.projection else None
        self.small = (0, 0) if scores.adam is not None and scores.small is None else None

    def add(self, name: str, block: torch.Tensor) -> None:
        u = self.scores.map(name, block)
        if self.dots is not None and self.scores.targets is not None:
            self.dots.addmm_(u, self.scores.targets[name])
        if self.sketched is not None and self.scores.projection is not None:
            self.scores.projection.add(self.sketched, name, u)
        self.squares += torch.linalg.vector_norm(u, dim=1).double().square()
        self.plain += torch.linalg.vector_norm(block.flatten(1), dim=1).double().square()
        if self.small is not None and self.scores.adam is not None:
            count = self.scores.adam.small_second_moments(name, block)
            self.small = (self.small[0] + count, self.small[1] + block.numel())

    def finish(self) -> None:
        shared, positions = self.scores, self.positions
        norms = self.squares.sqrt()
        # a row without a gradient would still get the checkpoint's momentum as its feature
        usable = torch.isfinite(norms) & (norms > 0) & torch.isfinite(self.plain) & (self.plain > 0)
        bad = ~usable
        length = norms.masked_fill(bad, math.nan).float().unsqueeze(1)
        if self.dots is not None and shared.cosines is not None:
            shared.cosines[positions] = (self.dots / length).cpu().numpy()
        if self.sketched is not None and shared.features is not None:
            sketched_length = torch.linalg.vector_norm(self.sketched, dim=1, keepdim=True)
            shared.features[positions] = (
                (self.sketched / sketched_length.masked_fill(bad.unsqueeze(1), math.nan)).cpu().numpy()
            )
        shared.norms[positions] = length.flatten().cpu().numpy()
        if self.small is not None:
            shared.small = self.small
        for i in bad.nonzero().flatten().tolist():
            plain, norm = self.plain[i].sqrt().item(), norms[i].item()
            shared.excluded[shared.rows[positions[i]].id] = f"gradient has norm {plain}, preconditioned {norm}"


def free_bytes(device: torch.device) -> int:
    """What is left on `device`, or on the host where that is less: results pass through it."""
    host = psutil.virtual_memory().available
    return min(host, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else host
