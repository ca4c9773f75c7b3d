"""What per-example gradients cost, beside the cheapest pass that could give them, in one run.

    .venv/bin/python benchmarks/gradients.py            # about 2 minutes on 2 CPU cores

Over the same batches of the demo's pool: (a) forward and backward with all weights frozen, activation gradients only,
the floor; (b) the same with hooks that form every LoRA weight's per-example gradient; (c) (b) plus the Adam rule and
the dot products with all targets, which is what the gradients stage does; (d) one training step's forward and
backward. Times are medians of interleaved rounds, so that a slow spell of the machine hits all alike. The bound is
(c)/(a) <= 1.1 (aim).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

from curate.influence.checkpoints import Checkpoint
from curate.influence.exact import pool_cosines, target_gradients
from train.encoding import collate, encode_all, token_budget_batches
from train.losses import per_example_loss
from train.models import attach_lora, load_base, load_tokenizer, trainable
from train.per_example import graph_from_adapters, hooked_maps, iterate_gradients
from train.settings import LoraSettings

ROOT = Path(__file__).parent.parent
ROWS, TOKENS_PER_BATCH, ROUNDS = 400, 4096, 5


def main() -> None:
    model_path = str(ROOT / "demo" / "model")
    tokenizer = load_tokenizer(model_path)
    pad = tokenizer.pad_token_id
    pool, _ = encode_all(pq.read_table(ROOT / "demo/data/pool.parquet").to_pylist()[:ROWS], tokenizer, 256)
    targets, _ = encode_all(pq.read_table(ROOT / "demo/data/targets.parquet").to_pylist(), tokenizer, 256)
    model = attach_lora(load_base(model_path), LoraSettings(), 0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    zeros = {name: torch.zeros(p.numel()) for name, p in trainable(model).items()}
    checkpoint = Checkpoint(ROOT, 10, (0.9, 0.999), 1e-8, [1e-3], zeros, {n: z + 1e-6 for n, z in zeros.items()})
    unit = target_gradients(model, targets, pad, TOKENS_PER_BATCH)
    batches = token_budget_batches([len(row.input_ids) for row in pool], TOKENS_PER_BATCH)

    def passes() -> None:
        for positions in batches:
            batch = collate([pool[i] for i in positions], pad)
            labels = batch.pop("labels")
            per_example_loss(model(**batch, use_cache=False).logits, labels)[0].sum().backward()

    def floor() -> None:
        with graph_from_adapters(model, hooked_maps(model)):
            passes()

    def training() -> None:
        model.train()
        passes()
        model.zero_grad()
        model.eval()

    ways: dict[str, Callable[[], object]] = {
        "a  forward and backward, frozen": floor,
        "b  with per-example gradients": lambda: iterate_gradients(
            model, pool, pad, TOKENS_PER_BATCH, lambda positions: lambda name, block: None
        ),
        "c  with Adam rule and dot products": lambda: pool_cosines(
            model, checkpoint, pool, unit, pad, tokens_per_batch=TOKENS_PER_BATCH
        ),
        "d  training forward and backward": training,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    tokens = sum(len(row.input_ids) for row in pool)
    base = statistics.median(times["a  forward and backward, frozen"])
    print(f"{len(pool)} rows, {tokens} tokens, {len(targets)} targets, {ROUNDS} rounds")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<36} {median:6.2f} s  {tokens / median:7.0f} tokens/s  {median / base:.2f} x")


if __name__ == "__main__":
    main()
