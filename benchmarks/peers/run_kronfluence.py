"""kronfluence: pairwise influence scores by its analyzer, strategy `identity` (no curvature): plain dot products.

It takes batches of a fixed number of rows; the rows are sorted by length for it, so that little is padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from worker import Round, serve
from workload import Row, Workload, adapted_modules, load_model, mean_losses, padded

ROWS_PER_BATCH = 32


class SummedLoss(Task):
    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
        return mean_losses(model(input_ids=batch["input_ids"], use_cache=False).logits, batch["labels"]).sum()

    def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules


class Kronfluence:
    quantity = "dot"

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload = workload
        self.pool, self.pool_order = _by_length(workload.pool)
        self.targets, self.target_order = _by_length(workload.targets)
        model = load_model(workload)
        self.task = SummedLoss(adapted_modules(model))
        self.model = prepare_model(model, self.task)
        self.about = "pairwise scores, identity strategy, no projection; keeps the scores"

    def run(self, folder: Path) -> Round:
        analyzer = Analyzer("benchmark", self.model, self.task, cpu=True, disable_tqdm=True, output_dir=str(folder))
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=self.collate))
        analyzer.fit_all_factors("identity", self.pool, factor_args=FactorArguments(strategy="identity"))
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="identity",
            query_dataset=self.targets,
            train_dataset=self.pool,
            per_device_query_batch_size=ROWS_PER_BATCH,
            per_device_train_batch_size=ROWS_PER_BATCH,
            # one pass over the pool for all targets together
            score_args=ScoreArguments(query_gradient_accumulation_steps=-(-len(self.targets) // ROWS_PER_BATCH)),
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]  # (M, N)
        unsorted = np.empty((len(self.pool), len(self.targets)), dtype=np.float32)
        unsorted[np.ix_(self.pool_order, self.target_order)] = scores.T.numpy()
        return Round(unsorted, [analyzer.scores_output_dir("scores")])

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        ids, labels = padded(rows, self.workload.pad_id)
        return {"input_ids": ids, "labels": labels}


def _by_length(rows: list[Row]) -> tuple[list[Row], list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    return [rows[i] for i in order], order


if __name__ == "__main__":
    serve("kronfluence", Kronfluence)
