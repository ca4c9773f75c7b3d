"""EK-FAC: gradients in the metric of the curvature, from Kronecker factors of each adapted layer.

K-FAC takes the Fisher matrix of a linear map as the product of the second moments of its input, E[x x^T], and of its
output gradient, E[e e^T]; EK-FAC keeps their eigenvectors and measures the eigenvalues anew in that basis (George et
al., arXiv 1806.03884; for influence, Grosse et al., arXiv 2308.03296). One side of every LoRA matrix is only the rank
wide, so one of the two eigendecompositions is tiny.

Both sides of an influence score are mapped by F^(-1/2): <F^(-1/2) g_i, F^(-1/2) g_j> = g_i^T F^(-1) g_j, so the cosine
of the mapped gradients is the angle in the curvature's metric, and no Adam moments are needed. Damping is a share of
the mean eigenvalue of each layer. Rows without a finite gradient are left out of the fit, and named. Cost: two passes
over a sample of the pool to fit, then in^2 x out + out^2 x in multiply-adds per layer and example; memory in^2 + out^2
numbers per layer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from curate.influence.counters import stream_number
from curate.influence.scoring import InfluenceError
from train.encoding import IGNORED, Encoded, collate
from train.per_example import Tap, iterate_gradients
from train.per_example.batches import run_in_batches
from train.per_example.passes import backward_captures
from train.per_example.taps import DoraMagnitude, TransposedWeight
from train.settings import Precision

DAMPING = 0.1  # of the mean eigenvalue, as in Grosse et al. and kronfluence
logger = logging.getLogger(__name__)


Factors = tuple[torch.Tensor, torch.Tensor]  # sums of v v^T, (rows, rows) and (columns, columns) of the parameter


@dataclass(frozen=True)
class Eigenbasis:
    """One parameter's curvature: left (rows of the block), right (its columns) eigenvectors, None for a vector
    parameter; eigenvalues: the parameter's shape, second moments of single-example gradients in that basis."""

    left: torch.Tensor | None
    right: torch.Tensor | None
    eigenvalues: torch.Tensor

    def rotate(self, block: torch.Tensor) -> torch.Tensor:
        """left^T G right for every G of a (B, *shape) block; the narrow side first, it costs least."""
        if self.left is None or self.right is None:
            return block
        return (self.left.T @ block) @ self.right


class Ekfac:
    """The map F^(-1/2) for pool and targets alike (`curate.influence.preconditioning.Preconditioner`)."""

    def __init__(self, bases: Mapping[str, Eigenbasis], damping: float = DAMPING) -> None:
        self.bases = bases
        self.scale = {}
        for name, basis in bases.items():
            damped = basis.eigenvalues + damping * basis.eigenvalues.mean()
            # a layer on which no row has a gradient has no metric: it is left out, not blown up
            self.scale[name] = torch.where(damped > 0, damped.rsqrt(), 0.0)

    def pool(self, name: str, block: torch.Tensor) -> torch.Tensor:
        return self.bases[name].rotate(block).mul(self.scale[name]).flatten(1)

    def target(self, name: str, block: torch.Tensor) -> torch.Tensor:
        return self.pool(name, block)


def fit_ekfac(
    model: Any,
    taps: Mapping[str, Tap],
    rows: Sequence[Encoded],
    pad_id: int,
    tokens_per_batch: int = 4096,
    precision: Precision = "float32",
) -> dict[str, Eigenbasis]:
    """Eigenbases of every tapped parameter from the gradients of `rows` (the empirical Fisher when the rows carry
    their own labels, the model's Fisher when they come from `sample_labels`).

    Raises `InfluenceError` when no row has a finite gradient.
    """
    factors, usable = _second_moments(model, taps, rows, pad_id, tokens_per_batch, precision)
    lost = [rows[i].id for i in sorted(set(range(len(rows))).difference(usable))]
    if lost:
        logger.warning(
            "curvature: %d of %d rows have no finite gradient, the first is %s", len(lost), len(rows), lost[0]
        )
    if not usable:
        raise InfluenceError(
            f"none of {len(rows)} rows has a finite gradient to measure curvature on: look at the checkpoint's loss, "
            "or use preconditioner less, torch or sgd"
        )
    rows = [rows[i] for i in sorted(usable)]
    rotations = {
        name: Eigenbasis(_eigenvectors(left), _eigenvectors(right), torch.zeros(0))
        for name, (left, right) in factors.items()
    }
    for name, tap in taps.items():
        rotations.setdefault(name, Eigenbasis(None, None, torch.zeros(tap.parameter.shape)))
    sums = {name: torch.zeros(tap.parameter.shape, device=model.device) for name, tap in taps.items()}

    def start_batch(_positions: list[int]) -> _Squares:
        return _Squares(rotations, sums)

    iterate_gradients(model, rows, pad_id, tokens_per_batch, taps, start_batch, precision=precision)
    return {name: replace(basis, eigenvalues=sums[name] / len(rows)) for name, basis in rotations.items()}


class _Squares:
    """Squares of rotated gradients, summed over a batch and then over batches."""

    def __init__(self, bases: Mapping[str, Eigenbasis], sums: dict[str, torch.Tensor]) -> None:
        self.bases, self.sums = bases, sums
        self.batch: dict[str, torch.Tensor] = {}

    def add(self, name: str, block: torch.Tensor) -> None:
        self.batch[name] = self.bases[name].rotate(block).square().sum(dim=0)

    def finish(self) -> None:
        for name, squares in self.batch.items():
            self.sums[name] += squares


def _second_moments(
    model: Any,
    taps: Mapping[str, Tap],
    rows: Sequence[Encoded],
    pad_id: int,
    tokens_per_batch: int,
    precision: Precision,
) -> tuple[dict[str, Factors], set[int]]:
    """Per matrix parameter the sums of v v^T for the block's row side and column side, and the positions of the rows
    they are sums of: those with a finite loss and gradient.

    Over the tokens before each row's last label: no later one, nor padding, has part in a gradient.
    """
    totals: dict[str, Factors] = {}
    usable: set[int] = set()

    def one_pass(positions: list[int]) -> tuple[dict[str, Factors], torch.Tensor]:
        batch = [rows[i] for i in positions]
        labelled = collate(batch, pad_id)["labels"][:, 1:] != IGNORED
        # the loss reaches what comes before the last label; e itself may be zero only up to rounding
        reached = torch.nn.functional.pad(labelled.flip(1).cummax(dim=1).values.flip(1), (0, 1)).to(model.device)
        finite = torch.ones(len(batch), dtype=torch.bool, device=model.device)
        found: dict[str, Factors] = {}

        def capture(name: str, tap: Tap, x: torch.Tensor, _y: torch.Tensor | None, e: torch.Tensor) -> None:
            finite.logical_and_(torch.isfinite(x).flatten(1).all(dim=1) & torch.isfinite(e).flatten(1).all(dim=1))
            if isinstance(tap, DoraMagnitude):
                return
            inputs, gradients = x[reached].float(), e[reached].float()
            if isinstance(tap, TransposedWeight):
                inputs, gradients = gradients, inputs
            found[name] = gradients.T @ gradients, inputs.T @ inputs

        losses = backward_captures(model, batch, pad_id, taps, capture, precision)
        return found, finite & torch.isfinite(losses)

    def work(positions: list[int]) -> tuple[list[int], dict[str, Factors]]:
        found, finite = one_pass(positions)
        if finite.all():
            return positions, found
        # one bad row has spoilt the sums of its batch: once more without it
        kept = [i for i, good in zip(positions, finite.tolist(), strict=True) if good]
        return kept, one_pass(kept)[0] if kept else {}

    def finish(_positions: list[int], result: tuple[list[int], dict[str, Factors]]) -> None:
        usable.update(result[0])
        for name, (left, right) in result[1].items():
            if name in totals:
                totals[name][0].add_(left)
                totals[name][1].add_(right)
            else:
                totals[name] = left, right

    run_in_batches([len(row.input_ids) for row in rows], tokens_per_batch, work, finish)
    return totals, usable


def _eigenvectors(moment: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns; float64, because small eigenvalues next to large ones lose their vectors in float32."""
    return torch.linalg.eigh(moment.double())[1].to(moment)


def sample_labels(
    model: Any, rows: Sequence[Encoded], pad_id: int, seed: int, tokens_per_batch: int = 4096
) -> list[Encoded]:
    """The rows with every label drawn from the model's own prediction at that place, for the model's Fisher matrix.

    The drawn token is a label only; what the model reads stays as it was. The draw depends on the seed and the row, not
    on its batch. A row whose prediction is not finite gets no label.
    """
    sampled = list(rows)
    wanted = [[t for t in range(1, len(row.labels)) if row.labels[t] != IGNORED] for row in rows]

    def work(positions: list[int]) -> tuple[torch.Tensor, ...]:
        batch = {key: value.to(model.device) for key, value in collate([rows[i] for i in positions], pad_id).items()}
        del batch["labels"]
        with torch.no_grad():
            logits = model(**batch, use_cache=False).logits
        owners = [b for b, i in enumerate(positions) for _ in wanted[i]]
        places = [t - 1 for i in positions for t in wanted[i]]  # where the label is predicted
        return logits[owners, places].float().softmax(dim=-1).cpu().split([len(wanted[i]) for i in positions])

    def finish(positions: list[int], probabilities: tuple[torch.Tensor, ...]) -> None:
        for i, before in zip(positions, probabilities, strict=True):
            labels = [IGNORED] * len(rows[i].labels)
            if wanted[i] and torch.isfinite(before).all():
                own = torch.Generator().manual_seed(stream_number(seed, "labels", rows[i].id) % 2**63)
                drawn = torch.multinomial(before, 1, generator=own).flatten().tolist()
                for t, token in zip(wanted[i], drawn, strict=True):
                    labels[t] = token
            sampled[i] = replace(rows[i], labels=labels)

    was_training = model.training
    model.eval()
    run_in_batches([len(row.input_ids) for row in rows], tokens_per_batch, work, finish)
    model.train(was_training)
    return sampled


def save_bases(bases: Mapping[str, Eigenbasis], path: Path) -> None:
    parts = {}
    for name, basis in bases.items():
        for key, value in (("left", basis.left), ("right", basis.right), ("eigenvalues", basis.eigenvalues)):
            if value is not None:
                parts[f"{key}.{name}"] = value.cpu().contiguous()
    save_file(parts, path)


def load_bases(path: Path, device: torch.device | str) -> dict[str, Eigenbasis]:
    parts = load_file(path, device=str(device))
    names = [key.removeprefix("eigenvalues.") for key in parts if key.startswith("eigenvalues.")]
    return {
        name: Eigenbasis(parts.get(f"left.{name}"), parts.get(f"right.{name}"), parts[f"eigenvalues.{name}"])
        for name in names
    }
