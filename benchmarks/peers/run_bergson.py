"""bergson: hooked per-example gradients, a two-sided random projection per adapted map, an index on disk.

Its own `collect_gradients` over its own token-budget batches builds one index for the pool and one for the targets;
rows are unit-normalised by its preprocessing, so a product of two rows is a cosine. Mode `whole` keeps the gradients
without a projection.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from bergson import GradientProcessor, IndexConfig, PreprocessConfig, collect_gradients, load_gradients
from bergson.data import allocate_batches
from bergson.utils.peft import detect_peft_modules
from datasets import Dataset
from worker import Round, serve
from workload import Row, Workload, load_model

DIMENSION = 8192


class Bergson:
    quantity = "cosine"

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload = workload
        self.model = load_model(workload)
        self.modules = detect_peft_modules(self.model)
        if mode == "whole":
            self.side = 0  # its word for none
            self.about = "no projection; keeps whole float32 gradients"
        else:
            self.side = math.isqrt(DIMENSION // len(self.modules))
            width = self.side**2 * len(self.modules)
            self.about = f"{self.side} x {self.side} signs per map, d = {width}; keeps a float32 index"
        # as its own `setup_model_and_peft` leaves a model: a graph from the embeddings, no weight gradients
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().requires_grad_(True)
        self.pool, self.targets = (_dataset(rows) for rows in (workload.pool, workload.targets))

    def run(self, folder: Path) -> Round:
        pool, targets = (
            self.index(folder / name, rows) for name, rows in (("pool", self.pool), ("targets", self.targets))
        )
        scores = np.asarray(load_gradients(pool)) @ np.asarray(load_gradients(targets)).T
        return Round(scores, [pool])

    def index(self, path: Path, rows: Dataset) -> Path:
        settings = IndexConfig(
            run_path=str(path),
            projection_dim=self.side,
            token_batch_size=self.workload.tokens_per_batch,
            loss_reduction="mean",
        )
        settings.partial_run_path.mkdir()
        collect_gradients(
            self.model,
            rows,
            GradientProcessor(projection_dim=self.side or None),
            settings,
            batches=allocate_batches(rows["length"][:], settings.token_batch_size),
            target_modules=self.modules,
            preprocess_cfg=PreprocessConfig(unit_normalize=True),
        )
        return settings.partial_run_path


def _dataset(rows: list[Row]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids.tolist() for row in rows],
            "labels": [row.labels.tolist() for row in rows],
            "length": [len(row) for row in rows],
        }
    )


if __name__ == "__main__":
    serve("bergson", Bergson)
