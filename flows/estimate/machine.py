"""How fast this machine is with this model: a few real training steps on rows of the pool, or, where the model is too
large to try, the rate of a plain matrix product."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flows.config import RunConfig
from train.encoding import Encoded
from train.forward import batch_losses
from train.models import attach_lora, load_base, load_tokenizer

TRIED_PARAMETERS = 300_000_000  # the largest model that is loaded only to be timed
STEPS = 2
SHARE_OF_PRODUCT = 1 / 3  # of a plain product's rate that a model reaches
OPERATIONS = 4  # per parameter and token: forward, and backward through frozen weights


@dataclass(frozen=True)
class Speed:
    """seconds_per_token: of a training step of the adapter, per token of the padded batch; tried: measured with the
    model itself; device: as torch names it."""

    seconds_per_token: float
    tried: bool
    device: str


def measure(config: RunConfig, parameters: int, sample: Sequence[Encoded]) -> Speed:
    """Seconds, most of them for loading the model."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    rows = list(sample[: config.finetune.optimizer.rows_at_once])
    if parameters > TRIED_PARAMETERS or not rows:
        return Speed(OPERATIONS * parameters / (_product_rate() * SHARE_OF_PRODUCT), False, device)
    model = attach_lora(load_base(config.model), config.finetune.lora, seed=0)
    pad_id = load_tokenizer(config.model).pad_token_id
    times = []
    for _ in range(1 + STEPS):  # the first finds memory and kernels
        started = time.perf_counter()
        batch_losses(model, rows, pad_id, model.device, model.get_output_embeddings()).mean().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return Speed(min(times[1:]) / (len(rows) * max(len(row.input_ids) for row in rows)), True, device)


def _product_rate(width: int = 512) -> float:
    """Multiplications and additions per second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, w = torch.randn(2048, width, device=device), torch.randn(width, width, device=device)
    (x @ w).sum().item()
    started = time.perf_counter()
    for _ in range(10):
        y = x @ w
    y.sum().item()
    return 10 * 2 * x.shape[0] * width * width / (time.perf_counter() - started)
