"""A model at one warmup checkpoint, ready to take gradients: adapter, layers, and the preconditioner with its state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from peft import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from curate.influence.checkpoints import Checkpoint, CheckpointError, check_names
from curate.influence.ekfac import Ekfac, fit_ekfac, load_bases, sample_labels, save_bases
from curate.influence.preconditioning import Adam, Plain
from curate.influence.scoring import Engine, InfluenceError
from curate.influence.sealed import is_sealed, sealing
from curate.influence.settings import GradientJob
from train.encoding import read_encoded
from train.models import ADAPTER_FILE, ModelError, load_adapter, load_base, load_tokenizer, trainable
from train.per_example import Tap, find_taps
from train.per_example.taps import LinearWeight

logger = logging.getLogger(__name__)


def open_engine(
    job: GradientJob,
    checkpoint: Checkpoint,
    folder: Path,
    device: str,
    on_batch: Callable[[int], None],
    on_halving: Callable[[], None],
) -> Engine:
    """The engine that `job` asks for. folder: where fitted curvature is kept for the next time and other processes.

    Raises `ModelError`, `UnsupportedParameterError`, `CheckpointError` or `InfluenceError`.
    """
    settings = job.settings
    model = _load_model(job.model, checkpoint, device)
    taps = find_taps(model, layers=settings.layers, full_rank=settings.full_rank)
    _check_adapter_is_trained(taps, checkpoint)
    engine = Engine(
        model=model,
        taps=taps,
        preconditioner=Plain(),
        pad_id=load_tokenizer(job.model).pad_token_id,
        tokens_per_batch=settings.tokens_per_batch,
        precision=settings.precision,
        on_batch=on_batch,
        on_halving=on_halving,
    )
    if settings.preconditioner == "sgd":
        return engine
    if settings.preconditioner == "ekfac":
        return replace(engine, preconditioner=_ekfac(job, engine, folder / "ekfac.safetensors"))
    check_names(checkpoint, trainable(model))
    if settings.preconditioner == "less" and checkpoint.step == 0:
        logger.warning("%s: no optimizer step was taken, so `less` divides by sqrt(eps)", checkpoint.path)
    return replace(engine, preconditioner=Adam(checkpoint, settings.preconditioner, device))


def _load_model(base: str, checkpoint: Checkpoint, device: str) -> Any:
    """Base and adapter; refuses an adapter that does not cover the model, which peft would fill with fresh layers."""
    try:
        model = load_adapter(load_base(base, device=device), checkpoint.path)
        with safe_open(checkpoint.path / ADAPTER_FILE, framework="pt") as file:
            stored = set(file.keys())
    except ModelError:
        raise
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the adapter in {checkpoint.path} does not fit the model {base}: {reason[:300]}. Use the model it was "
            "trained on, or train the warmup again"
        ) from error
    missing = min(get_peft_model_state_dict(model, save_embedding_layers=False).keys() - stored, default=None)
    if missing:
        raise CheckpointError(
            f"the adapter in {checkpoint.path} has no {missing}, which {base} needs. Use the model it was trained on, "
            "or train the warmup again"
        )
    return model


def _ekfac(job: GradientJob, engine: Engine, path: Path) -> Ekfac:
    """The curvature on a sample of the warmup's rows, fitted by whichever process comes first."""
    if not is_sealed(path):  # a finished store is only read
        with FileLock(path.with_suffix(".lock")):
            if not is_sealed(path):
                _fit(job, engine, path)
    return Ekfac(load_bases(path, engine.model.device), job.settings.curvature.damping)


def _fit(job: GradientJob, engine: Engine, path: Path) -> None:
    curvature, tokens = job.settings.curvature, engine.tokens_per_batch
    sample = read_encoded(job.sample)
    if not sample:
        raise InfluenceError(f"{job.sample} has no row to measure curvature on; give the rows the warmup trained on")
    rng = np.random.default_rng([job.seed, 2])
    chosen = sorted(rng.choice(len(sample), size=min(curvature.rows, len(sample)), replace=False))
    rows = [sample[i] for i in chosen]
    if curvature.labels == "sampled":
        rows = sample_labels(engine.model, rows, engine.pad_id, job.seed, tokens)
    bases = fit_ekfac(engine.model, engine.taps, rows, engine.pad_id, tokens, engine.precision)
    with sealing(path) as partial:
        save_bases(bases, partial)


def _check_adapter_is_trained(taps: Mapping[str, Tap], checkpoint: Checkpoint) -> None:
    second = [tap.parameter for name, tap in taps.items() if ".lora_B." in name and isinstance(tap, LinearWeight)]
    if second and not any(bool(parameter.any()) for parameter in second):
        raise CheckpointError(
            f"{checkpoint.path}: every lora_B is still zero, so lora_A has no gradient; no training step has reached "
            "this adapter. Train the warmup for at least one step"
        )
