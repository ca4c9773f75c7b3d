"""The floor: one batched forward and backward pass over the same rows, all weights frozen, activation gradients only.

Nothing that needs a gradient per example can be cheaper than this, unless it computes fewer logits or fewer layers.
Mode `labelled` is the floor for a tool that forms logits at labelled positions only; mode `full`, the default, the
floor for one that calls the model as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from worker import Round, serve
from workload import IGNORED, Workload, adapted_modules, batches, load_model, mean_losses, padded


class Floor:
    quantity = None

    def __init__(self, workload: Workload, mode: str) -> None:
        self.workload, self.labelled = workload, mode == "labelled"
        self.about = "logits at labelled positions only" if self.labelled else "logits at all positions"
        self.model = load_model(workload)
        modules = dict(self.model.named_modules())
        for name in adapted_modules(self.model):  # the graph starts at the first adapted map, not at the embeddings
            modules[name].register_forward_hook(_start_graph)
        self.model.requires_grad_(False)

    def run(self, folder: Path) -> Round:
        rows = self.workload.rows
        for positions in batches(rows, self.workload.tokens_per_batch):
            ids, labels = padded([rows[i] for i in positions], self.workload.pad_id)
            if self.labelled:
                self._labelled_losses(ids, labels).sum().backward()
            else:
                mean_losses(self.model(input_ids=ids, use_cache=False).logits, labels).sum().backward()
        return Round()

    def _labelled_losses(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        base = self.model.get_base_model()
        owners, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[owners, columns]
        each = F.cross_entropy(base.lm_head(hidden), labels[owners, columns + 1], reduction="none")
        counts = torch.bincount(owners, minlength=len(ids))
        return torch.zeros(len(ids)).index_add(0, owners, each) / counts


def _start_graph(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
    if not output.requires_grad:
        output.requires_grad_(True)


if __name__ == "__main__":
    serve("torch", Floor)
