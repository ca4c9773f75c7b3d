"""What a run will cost, before it starts: rows, tokens, time and disk, from file headers and a short matrix product.

The time counts 4 operations per parameter and token for a gradient pass and 6 for training, at the rate this machine
reaches in a product of the model's width; expect it within a factor of two. Engines' start-up is added as a constant.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pyarrow.parquet as pq

from curate.selection import resolve_budget
from flows.config import RunConfig

CHARACTERS_PER_TOKEN = 3.0
START_UP_SECONDS = 90.0


def parameters_of(model: str) -> int | None:
    """Parameters of a local model, from the safetensors headers alone."""
    total = 0
    for path in Path(model).glob("*.safetensors"):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for length in tensor["shape"]:
                    count *= length
                total += count
    return total or None


def rows_and_tokens(config: RunConfig) -> tuple[int, float] | None:
    """Pool rows and tokens for Parquet pools, from the files' metadata; None where that cannot be known cheaply."""
    rows, size = 0, 0
    for source in config.data.pool:
        path = Path(source.path)
        if path.suffix != ".parquet" or not path.is_file():
            return None
        metadata = pq.read_metadata(path)
        rows += min(metadata.num_rows, source.limit or metadata.num_rows)
        size += sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))
    return rows, min(size / CHARACTERS_PER_TOKEN, rows * config.max_length)


def selected_share(config: RunConfig, rows: int, tokens: float) -> tuple[float, str]:
    """The share of the pool that will be trained on, at most 1, and the budget in words."""
    settings = config.selection
    if settings.budget_tokens is not None:
        budget = resolve_budget(settings.budget_tokens, round(tokens))
        return min(1.0, budget / max(tokens, 1)), f"{budget:,} tokens"
    budget = resolve_budget(settings.budget, rows)
    return min(1.0, budget / max(rows, 1)), f"{budget:,} rows"


def bytes_per_row(config: RunConfig) -> int:
    """What the feature store keeps of a pool row and checkpoint; the number of targets is taken to be a hundred."""
    influence = config.influence
    if influence.mode == "exact":
        return 100 * 4
    return influence.dimension * {"float32": 4, "float16": 2, "int8": 1}[influence.stored_as]


def operations_per_second(width: int = 512) -> float:
    import torch

    x, w = torch.randn(2048, width), torch.randn(width, width)
    x @ w
    started = time.perf_counter()
    for _ in range(10):
        x @ w
    return 10 * 2 * x.shape[0] * width * width / (time.perf_counter() - started)


def estimate(config: RunConfig) -> str:
    """A few lines for a person."""
    size, parameters = rows_and_tokens(config), parameters_of(config.model)
    if size is None or parameters is None:
        return "No estimate: it needs a Parquet pool and a local model."
    rows, tokens = size
    share, selected = selected_share(config, rows, tokens)
    arms = len(config.selection.methods)
    gradient = 4 * parameters * tokens * config.warmup.checkpoints
    warm = 6 * parameters * tokens * config.warmup.fraction * config.warmup.optimizer.epochs
    tune = 6 * parameters * tokens * share * config.finetune.optimizer.epochs * arms
    # small models reach about a third of a plain product's rate
    seconds = (gradient + warm + tune) / (operations_per_second() / 3) + START_UP_SECONDS * (1 + arms)
    disk = parameters * 4 * arms + rows * bytes_per_row(config) * config.warmup.checkpoints + tokens * 8
    return (
        f"pool: {rows:,} rows, about {tokens:,.0f} tokens; model: {parameters:,} parameters\n"
        f"selection: {selected} by each of {', '.join(config.selection.methods)}\n"
        f"estimate: {seconds / 60:.0f} minutes on this machine, {disk / 2**20:,.0f} MiB in {config.store}"
    )
