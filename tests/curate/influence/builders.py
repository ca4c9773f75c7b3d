"""Checkpoints, engines and jobs on tiny models for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from curate.influence.checkpoints import Checkpoint
from curate.influence.preconditioning import Adam, Plain, Preconditioner
from curate.influence.scoring import Engine
from curate.influence.settings import GradientJob, InfluenceSettings
from tests.tiny import PAD
from train.models import trainable
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE
from train.per_example import find_taps


def random_checkpoint(model: Any, seed: int = 0, **changes: Any) -> Checkpoint:
    """Moments of the size that real ones have, for every trainable parameter."""
    generator = torch.Generator().manual_seed(seed)
    named = trainable(model)
    m = {name: 0.1 * torch.randn(p.numel(), generator=generator) for name, p in named.items()}
    v = {name: 0.01 * torch.rand(p.numel(), generator=generator) for name, p in named.items()}
    fields = {"step": 7, "betas": (0.9, 0.999), "eps": 1e-8, "learning_rates": [1e-3], "m": m, "v": v}
    return Checkpoint(Path("checkpoint-1"), **(fields | changes))


def make_engine(model: Any, rule: str | Preconditioner = "sgd", tokens_per_batch: int = 4096, **parts: Any) -> Engine:
    """rule: `less` or `torch` with `random_checkpoint`, `sgd`, or a preconditioner."""
    if isinstance(rule, str):
        rule = Plain() if rule == "sgd" else Adam(random_checkpoint(model), rule)
    return Engine(model, find_taps(model), rule, PAD, tokens_per_batch, **parts)


def write_checkpoint(folder: Path, model: Any, *, rates: tuple[float, ...] = (0.1, 0.2), seed: int = 0) -> Path:
    """The model's adapter with random moments, as `train.moments.SaveMoments` leaves them."""
    model.save_pretrained(folder)
    checkpoint = random_checkpoint(model, seed)
    moments = {
        f"{kind}.{name}": values.view(trainable(model)[name].shape)
        for kind, part in (("exp_avg", checkpoint.m), ("exp_avg_sq", checkpoint.v))
        for name, values in part.items()
    }
    save_file(moments, folder / MOMENTS_FILE)
    state = {"step": 7, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "learning_rates": list(rates)}
    (folder / OPTIMIZER_FILE).write_text(json.dumps(state))
    return folder


def make_job(folder: Path, checkpoints: list[Path], base: Path, **changes: Any) -> GradientJob:
    """A job on the three files of encoded rows in `folder`; changes of settings or of the job itself."""
    settings = {key: changes.pop(key) for key in list(changes) if key in InfluenceSettings.model_fields}
    fields = {
        "model": str(base),
        "model_digest": "base",
        "max_length": 64,
        "seed": 17,
        "checkpoints": checkpoints,
        "sample": folder / "sample.parquet",
        "pool": folder / "pool.parquet",
        "targets": folder / "targets.parquet",
        "features": folder / "features",
        "output": folder / "output",
    }
    return GradientJob(
        **(fields | changes), settings=InfluenceSettings(**({"shard_rows": 4, "preconditioner": "less"} | settings))
    )
