"""The benchmark's input as every tool reads it: base model, adapter, tokenised rows.

Imports nothing of Equipoise, because it also runs under the Python of each peer's own environment. `bundle` writes what
is read here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

NOTE, ADAPTER, ROWS = "bundle.json", "adapter", "rows.npz"
IGNORED = -100


@dataclass(frozen=True)
class Row:
    """input_ids, labels: (T,) int64; labels are -100 where nothing is trained, not shifted."""

    id: str
    input_ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Workload:
    """pool: N rows; targets: M rows; `base`: folder of the base model, `adapter`: of the LoRA."""

    base: Path
    adapter: Path
    pool: list[Row]
    targets: list[Row]
    pad_id: int
    tokens_per_batch: int

    @property
    def rows(self) -> list[Row]:
        return self.pool + self.targets


def read_workload(folder: Path) -> Workload:
    note = json.loads((folder / NOTE).read_text())
    with np.load(folder / ROWS) as arrays:
        tokens, labels, ends = (
            torch.from_numpy(arrays[name].astype(np.int64)) for name in ("tokens", "labels", "ends")
        )
    starts = [0, *ends.tolist()[:-1]]
    rows = [Row(name, tokens[a:b], labels[a:b]) for name, a, b in zip(note["ids"], starts, ends.tolist(), strict=True)]
    count = note["pool_rows"]
    return Workload(
        Path(note["base"]), folder / ADAPTER, rows[:count], rows[count:], note["pad_id"], note["tokens_per_batch"]
    )


def load_model(workload: Workload) -> Any:
    """The base model with its LoRA, float32, evaluation mode; the LoRA's weights are trainable, the base's are not."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(workload.base, dtype=torch.float32, use_safetensors=True)
    return PeftModel.from_pretrained(base, str(workload.adapter), is_trainable=True).eval()


def adapted_modules(model: Any) -> list[str]:
    """Names of the LoRA's linear maps, in the model's order."""
    return [name.removesuffix(".weight") for name, p in model.named_parameters() if p.requires_grad]


def batches(rows: Sequence[Row], tokens_per_batch: int) -> list[list[int]]:
    """Positions, longest rows first, so that a padded batch holds at most `tokens_per_batch` tokens."""
    found: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)):
        if not found or len(rows[found[-1][0]]) * (len(found[-1]) + 1) > tokens_per_batch:
            found.append([])
        found[-1].append(i)
    return found


def padded(rows: Sequence[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (B, T) input ids and labels. With causal attention no loss depends on the padding behind it, so no
    attention mask is needed, and PyTorch takes its faster causal kernel."""
    width = max(len(row) for row in rows)
    pad = [(0, width - len(row)) for row in rows]
    return (
        torch.stack([F.pad(row.input_ids, p, value=pad_id) for row, p in zip(rows, pad, strict=True)]),
        torch.stack([F.pad(row.labels, p, value=IGNORED) for row, p in zip(rows, pad, strict=True)]),
    )


def mean_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) mean cross-entropy of every row over its own labels. logits: (B, T, V); labels: (B, T), shifted here."""
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # the labels move, not the logits, which would be copied
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return each.view_as(targets).sum(dim=1) / (targets != IGNORED).sum(dim=1)
