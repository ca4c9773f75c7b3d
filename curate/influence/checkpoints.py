"""Warmup checkpoints as influence needs them: adapter, Adam moments by parameter name, learning rates that were really
used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from train.moments import MOMENTS_FILE, OPTIMIZER_FILE


class CheckpointError(ValueError):
    """A checkpoint without usable optimizer state, or one that does not fit the adapter."""


@dataclass(frozen=True)
class Checkpoint:
    """One warmup checkpoint. `m`, `v`: parameter name -> flat float32 raw moments; `step`: optimizer steps done."""

    path: Path
    step: int
    betas: tuple[float, float]
    eps: float
    learning_rates: list[float]
    m: dict[str, torch.Tensor]
    v: dict[str, torch.Tensor]


def load_checkpoint(path: Path) -> Checkpoint:
    for name in (MOMENTS_FILE, OPTIMIZER_FILE):
        if not (path / name).exists():
            raise CheckpointError(
                f"{path} has no {name}: influence needs the optimizer's moments by parameter name. "
                "Train the warmup with `checkpoints` of at least 1 in its job."
            )
    moments = load_file(path / MOMENTS_FILE)
    state = json.loads((path / OPTIMIZER_FILE).read_text())
    names = [key.removeprefix("exp_avg.") for key in moments if key.startswith("exp_avg.")]
    return Checkpoint(
        path=path,
        step=state["step"],
        betas=(state["betas"][0], state["betas"][1]),
        eps=state["eps"],
        learning_rates=state["learning_rates"],
        m={name: moments[f"exp_avg.{name}"].flatten() for name in names},
        v={name: moments[f"exp_avg_sq.{name}"].flatten() for name in names},
    )


def check_names(checkpoint: Checkpoint, parameters: dict[str, torch.nn.Parameter]) -> None:
    """The moments must belong to exactly these parameters, in name and size."""
    for name, parameter in parameters.items():
        if name not in checkpoint.m:
            raise CheckpointError(f"{checkpoint.path} has no moments for {name}; adapter and optimizer state differ")
        if checkpoint.m[name].numel() != parameter.numel():
            raise CheckpointError(
                f"{checkpoint.path}: the moments of {name} have {checkpoint.m[name].numel()} values, "
                f"the parameter {parameter.numel()}"
            )
    extra = next((name for name in checkpoint.m if name not in parameters), None)
    if extra:
        raise CheckpointError(f"{checkpoint.path} has moments for {extra}, which the adapter does not have")


def learning_rate_weights(learning_rates: list[list[float]]) -> np.ndarray:
    """w (K,) float64, sum 1: the mean learning rate used between checkpoint k-1 and k (influence spec, section 6)."""
    means = np.array([np.mean(rates, dtype=np.float64) for rates in learning_rates])
    if not (np.isfinite(means).all() and means.sum() > 0):
        raise CheckpointError(f"the logged learning rates give no usable checkpoint weights: means {means.tolist()}")
    return means / means.sum()
