"""dattri: its LoGra attributor, random projections on both sides of every adapted map, without a Hessian.

It takes batches of a fixed number of rows; the rows are sorted by length for it, so that little is padding.
Features stay in memory: its store on disk asks for pinned memory, which a machine without an accelerator does not have.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from dattri.algorithm.logra import LoGraAttributor
from dattri.task import AttributionTask
from torch.utils.data import DataLoader
from worker import Round, serve
from workload import Row, Workload, adapted_modules, load_model, mean_losses, padded

DIMENSION, ROWS_PER_BATCH = 8192, 32


class MeanLoss(torch.nn.Module):
    """Keyword batch -> an object with the loss, which is how dattri calls a model on the target side. It multiplies
    each example's gradient by the batch size, so that the mean over the batch gives an example's own loss."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=mean_losses(self.inner(input_ids=input_ids, use_cache=False).logits, labels).mean())


class Dattri:
    quantity = "dot"

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload = workload
        self.model = MeanLoss(load_model(workload))
        self.layers = adapted_modules(self.model)
        side = math.isqrt(DIMENSION // len(self.layers))
        self.per_layer, width = side**2, side**2 * len(self.layers)
        self.about = f"LoGra, {side} x {side} normal per map, d = {width}; keeps float32 features in memory"
        self.pool, self.targets = (_loader(rows, workload.pad_id) for rows in (workload.pool, workload.targets))
        self.compressors = None
        setup = self.attributor()
        setup._setup_compressors(self.pool[0])  # two forward passes and the random matrices, once for any pool
        self.compressors = setup.compressors

    def run(self, folder: Path) -> Round:
        attributor = self.attributor()
        attributor.cache(self.pool[0])
        scores = attributor.attribute(self.pool[0], self.targets[0])
        unsorted = np.empty(scores.shape, dtype=np.float32)
        unsorted[np.ix_(self.pool[1], self.targets[1])] = scores.numpy()
        return Round(unsorted)

    def attributor(self) -> LoGraAttributor:
        task = AttributionTask(
            loss_func=lambda model, batch, device: model(**batch).loss,
            model=self.model,
            checkpoints="loaded",
            checkpoints_load_func=lambda model, checkpoint: model,
        )
        made = LoGraAttributor(
            task, layer_names=self.layers, hessian="Identity", proj_dim=self.per_layer, offload="cpu"
        )
        made.compressors = self.compressors
        return made


def _loader(rows: list[Row], pad_id: int) -> tuple[DataLoader, list[int]]:
    """Batches of the rows from long to short, and each one's place in `rows`."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))

    def collate(batch: list[Row]) -> dict[str, torch.Tensor]:
        ids, labels = padded(batch, pad_id)
        return {"input_ids": ids, "labels": labels}

    return DataLoader([rows[i] for i in order], batch_size=ROWS_PER_BATCH, collate_fn=collate), order


if __name__ == "__main__":
    serve("dattri", Dattri)
