"""Warmup checkpoints as influence needs them: adapter, Adam moments by parameter name, learning rates that were really
used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from train.models import ADAPTER_FILE
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE

ADAPTER_CONFIG = "adapter_config.json"


class CheckpointError(ValueError):
    """A checkpoint without usable optimizer state, or one that does not fit the adapter."""


@dataclass(frozen=True)
class Checkpoint:
    """One warmup checkpoint. `m`, `v`: parameter name -> flat float32 raw moments, empty where none were asked for;
    `step`: optimizer steps done; `digest`: content hash of the adapter, its scale and the moments."""

    path: Path
    step: int
    betas: tuple[float, float]
    eps: float
    learning_rates: list[float]
    m: dict[str, torch.Tensor]
    v: dict[str, torch.Tensor]
    digest: str = ""


def load_checkpoint(path: Path, *, moments: bool = True) -> Checkpoint:
    """The checkpoint in folder `path`; without its `moments` where the preconditioner needs none. Raises
    `CheckpointError` naming what is missing and how to make it."""
    needed = [OPTIMIZER_FILE, ADAPTER_FILE, ADAPTER_CONFIG, *([MOMENTS_FILE] if moments else [])]
    for name in needed:
        if not (path / name).exists():
            raise CheckpointError(
                f"{path} has no {name}: influence needs the adapter, the learning rates used and, for the Adam rules, "
                "the optimizer's moments by parameter name. Train the warmup with `checkpoints` of at least 1 in its "
                "job" + (", or use preconditioner ekfac or sgd" if name == MOMENTS_FILE else "")
            )
    first, second = _read_moments(path / MOMENTS_FILE) if moments else ({}, {})
    try:
        state = json.loads((path / OPTIMIZER_FILE).read_text())
        return Checkpoint(
            path=path,
            step=state["step"],
            betas=(state["betas"][0], state["betas"][1]),
            eps=state["eps"],
            learning_rates=state["learning_rates"],
            m=first,
            v=second,
            digest=_digest(path, needed),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path}: {OPTIMIZER_FILE} or {ADAPTER_CONFIG} is damaged ({error!r}); train the warmup again"
        ) from error


def _read_moments(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameter name -> flat first moments, and second ones."""
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the warmup again") from error
    first, second = (
        {key.removeprefix(kind): value.flatten() for key, value in stored.items() if key.startswith(kind)}
        for kind in ("exp_avg.", "exp_avg_sq.")
    )
    unpaired = min(first.keys() ^ second.keys(), default=None)
    if not any("." in name for name in first | second):
        what = f"no moments by parameter name; its keys are {', '.join(sorted(stored)[:2]) or 'none'}"
    elif unpaired:
        what = f"no {'exp_avg_sq' if unpaired in first else 'exp_avg'} of {unpaired}"
    else:
        return first, second
    raise CheckpointError(
        f"{path} has {what}. Needed are exp_avg.NAME and exp_avg_sq.NAME of every adapter parameter, as "
        "train.moments.SaveMoments writes them: train the warmup again, or use preconditioner ekfac or sgd"
    )


def _digest(folder: Path, names: list[str]) -> str:
    whole = hashlib.sha256()
    for name in names:
        if name == ADAPTER_CONFIG:
            whole.update(_scale_and_places(folder / name))
            continue
        with (folder / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:20]


def _scale_and_places(path: Path) -> bytes:
    """The adapter's configuration without the base model's path; peft writes sets, which have another order in every
    process."""
    config = json.loads(path.read_text())
    config.pop("base_model_name_or_path", None)
    ordered = {key: sorted(value, key=str) if isinstance(value, list) else value for key, value in config.items()}
    return json.dumps(ordered, sort_keys=True).encode()


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
