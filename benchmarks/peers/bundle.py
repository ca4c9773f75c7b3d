"""Writes the benchmark's input for all tools, and the exact scores that theirs are compared with.

The exact gradients come from the slow, obvious way: batch size 1 and PyTorch's own weight gradients.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from peers.workload import ADAPTER, NOTE, ROWS, Row, Workload, load_model, mean_losses, read_workload
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from train.encoding import encode_all
from train.models import attach_lora, load_base, load_tokenizer, trainable
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE
from train.settings import LoraSettings

BETAS, EPS = (0.9, 0.999), 1e-8
MOMENT_ROWS = 16  # rows whose gradients stand in for a warmup's


def write_bundle(
    folder: Path, demo: Path, pool_rows: int, target_rows: int, tokens_per_batch: int, hidden_size: int | None = None
) -> Workload:
    """The demo's first rows, its model, or a random Llama of `hidden_size`, and a rank-16 LoRA whose B is not zero.

    The adapter's folder is a warmup checkpoint with Adam moments, as Equipoise reads it.
    """
    folder.mkdir(parents=True)
    tokenizer = load_tokenizer(str(demo / "model"))
    pool, _ = encode_all(pq.read_table(demo / "data/pool.parquet").slice(0, pool_rows).to_pylist(), tokenizer, 256)
    targets = pq.read_table(demo / "data/targets.parquet").slice(0, target_rows).to_pylist()
    encoded = pool + encode_all(targets, tokenizer, 256)[0]
    base = demo / "model" if hidden_size is None else _random_llama(folder / "base", hidden_size, demo / "model")
    model = attach_lora(load_base(str(base), device="cpu"), LoraSettings(), 0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder / ADAPTER)
    np.savez(
        folder / ROWS,
        tokens=np.concatenate([row.input_ids for row in encoded]),
        labels=np.concatenate([row.labels for row in encoded]),
        ends=np.cumsum([len(row.input_ids) for row in encoded]),
    )
    note = {
        "base": str(base.resolve()),
        "pool_rows": len(pool),
        "ids": [row.id for row in encoded],
        "pad_id": tokenizer.pad_token_id,
        "tokens_per_batch": tokens_per_batch,
    }
    (folder / NOTE).write_text(json.dumps(note))
    workload = read_workload(folder)
    _write_moments(workload)
    return workload


def exact_scores(workload: Workload) -> dict[str, np.ndarray]:
    """(N, M) float32 by quantity: `cosine` and `dot` of plain gradients, and `adam cosine`, where the pool's gradient
    is preconditioned by the rule `less` (influence spec, section 4)."""
    pool, targets = gradients(workload, workload.pool), gradients(workload, workload.targets)
    m, v = _moments(workload)
    adam = (BETAS[0] * m + (1 - BETAS[0]) * pool) / (BETAS[1] * v + (1 - BETAS[1]) * pool**2 + EPS).sqrt()
    unit = torch.nn.functional.normalize(targets, dim=1)
    scores = {
        "dot": pool @ targets.T,
        "cosine": torch.nn.functional.normalize(pool, dim=1) @ unit.T,
        "adam cosine": torch.nn.functional.normalize(adam, dim=1) @ unit.T,
    }
    return {quantity: values.numpy() for quantity, values in scores.items()}


def gradients(workload: Workload, rows: Sequence[Row]) -> torch.Tensor:
    """(n, P) float32 gradients of the adapter, one row at a time."""
    model = load_model(workload)
    weights = list(trainable(model).values())
    found = []
    for row in rows:
        model.zero_grad()
        logits = model(input_ids=row.input_ids.unsqueeze(0), use_cache=False).logits
        mean_losses(logits, row.labels.unsqueeze(0)).sum().backward()
        found.append(torch.cat([weight.grad.flatten() for weight in weights]))
    return torch.stack(found)


def _moments(workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) first and second moments of the first rows' gradients."""
    sample = gradients(workload, workload.pool[:MOMENT_ROWS])
    return sample.mean(dim=0), sample.square().mean(dim=0)


def _write_moments(workload: Workload) -> None:
    shapes = {name: parameter.shape for name, parameter in trainable(load_model(workload)).items()}
    sizes = [shape.numel() for shape in shapes.values()]
    arrays = {}
    for key, values in zip(("exp_avg", "exp_avg_sq"), _moments(workload), strict=True):
        for (name, shape), part in zip(shapes.items(), values.split(sizes), strict=True):
            arrays[f"{key}.{name}"] = part.reshape(shape).clone()
    save_file(arrays, workload.adapter / MOMENTS_FILE)
    state = {"step": MOMENT_ROWS, "betas": BETAS, "eps": EPS, "weight_decay": 0.0, "learning_rates": [1e-3]}
    (workload.adapter / OPTIMIZER_FILE).write_text(json.dumps(state))


def _random_llama(folder: Path, hidden_size: int, like: Path) -> Path:
    """A model of `like`'s depth and vocabulary with random weights; heads of 64, half as many for keys and values."""
    heads = hidden_size // 64
    config = LlamaConfig.from_pretrained(
        like,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        dtype="float32",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
