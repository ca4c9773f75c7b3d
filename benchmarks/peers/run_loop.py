"""The loop of the LESS reference code, written anew: batch size 1, whole weight gradients, dense Rademacher blocks.

Sixteen gradients are gathered, then multiplied with a P x 8192 matrix of random signs that is made anew in blocks of
128 columns each time, as the CPU projector behind that code does: O(P d) random numbers per sixteen rows.

That takes minutes for a few hundred rows, so it is measured on evenly spaced rows, one group of pool rows and one of
targets, and its time is scaled to all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from worker import Round, serve
from workload import Row, Workload, load_model, mean_losses

DIMENSION, COLUMNS, GATHERED = 8192, 128, 16


class Loop:
    quantity = "cosine"
    about = f"batch size 1, dense signs to d = {DIMENSION}; keeps float16 features; timed on a part of the rows"

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload = workload
        self.model = load_model(workload)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]

    def run(self, folder: Path) -> Round:
        chosen = [_spaced(len(rows), GATHERED) for rows in (self.workload.pool, self.workload.targets)]
        pool, targets = (
            self.features([rows[i] for i in picks])
            for rows, picks in zip((self.workload.pool, self.workload.targets), chosen, strict=True)
        )
        path = folder / "features.npy"
        np.save(path, pool.half().numpy())
        stored = torch.from_numpy(np.load(path)).float()
        scores = np.full((len(self.workload.pool), len(self.workload.targets)), np.nan, dtype=np.float32)
        scores[np.ix_(*chosen)] = (stored @ targets.T).numpy()
        return Round(scores, [path], share=(len(pool) + len(targets)) / len(self.workload.rows))

    def features(self, rows: list[Row]) -> torch.Tensor:
        """(n, d) unit rows."""
        return torch.nn.functional.normalize(project(torch.stack([self.gradient(row) for row in rows])), dim=1)

    def gradient(self, row: Row) -> torch.Tensor:
        """(P,) of one row."""
        self.model.zero_grad()
        logits = self.model(input_ids=row.input_ids.unsqueeze(0), use_cache=False).logits
        mean_losses(logits, row.labels.unsqueeze(0)).sum().backward()
        return torch.cat([weight.grad.flatten() for weight in self.weights])


def project(gradients: torch.Tensor) -> torch.Tensor:
    """(n, P) -> (n, d)."""
    out = torch.empty(len(gradients), DIMENSION)
    signs = torch.empty(gradients.shape[1], COLUMNS)
    for start in range(0, DIMENSION, COLUMNS):
        signs.bernoulli_(0.5, generator=torch.Generator().manual_seed(start)).mul_(2).sub_(1)
        out[:, start : start + COLUMNS] = gradients @ signs
    return out


def _spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the positions below `count`, evenly spaced."""
    return [i * count // min(wanted, count) for i in range(min(wanted, count))]


if __name__ == "__main__":
    serve("torch", Loop)
