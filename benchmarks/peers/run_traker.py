"""TRAK: per-example gradients by `torch.func` and a dense normal projection, the only one it has on a CPU.

The model output is the example's loss itself, so that features are projected loss gradients; TRAK's own kernel
(features times an inverse covariance) is left out, because it needs more rows than dimensions, and scores are cosines
of the features. d is TRAK's default; its projection matrix is held in memory, where its block-wise projector would make
it anew for every batch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput
from trak.projectors import BasicSingleBlockProjector, ProjectionType
from worker import Round, serve
from workload import Workload, batches, load_model, mean_losses, padded

DIMENSION = 2048


class LossOutput(AbstractModelOutput):
    def __init__(self) -> None:
        pass

    @staticmethod
    def get_output(model: Any, weights: Any, buffers: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        keywords = {"input_ids": ids.unsqueeze(0), "use_cache": False}
        logits = torch.func.functional_call(model, (weights, buffers), args=(), kwargs=keywords).logits
        return mean_losses(logits, labels.unsqueeze(0)).sum()

    def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any) -> torch.Tensor:
        return torch.ones(len(batch[0]), 1)  # the output is the loss


class Traker:
    quantity = "cosine"
    about = f"torch.func, dense normal projection to d = {DIMENSION}, no kernel; keeps float32 features"

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload = workload
        self.model = load_model(workload)
        _freeze_base(self.model)
        self.checkpoint = self.model.state_dict()
        size = sum(p.numel() for p in self.model.parameters())
        self.projector = BasicSingleBlockProjector(size, DIMENSION, 0, ProjectionType.normal, "cpu")

    def run(self, folder: Path) -> Round:
        pool, targets = (
            self.features(folder / name, rows)
            for name, rows in (("pool", self.workload.pool), ("targets", self.workload.targets))
        )
        return Round(_unit(pool) @ _unit(targets).T, [folder / "pool"])

    def features(self, path: Path, rows: list[Any]) -> np.ndarray:
        """(n, d) as TRAK stores them."""
        traker = TRAKer(
            self.model,
            LossOutput(),
            train_set_size=len(rows),
            save_dir=str(path),
            device="cpu",
            projector=self.projector,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(self.checkpoint, model_id=0)
        for positions in batches(rows, self.workload.tokens_per_batch):
            batch = padded([rows[i] for i in positions], self.workload.pad_id)
            traker.featurize(batch, inds=np.array(positions))
        traker.saver.current_store["grads"].flush()
        return np.array(traker.saver.current_store["grads"])


def _freeze_base(model: torch.nn.Module) -> None:
    """TRAK differentiates every parameter, trainable or not; as buffers the base's weights are left alone."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.data)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    serve("traker", Traker)
