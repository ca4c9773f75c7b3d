"""What the gradient pass itself costs over the floor, without loading, targets and storing.

    PYTHONPATH=. .venv/bin/python benchmarks/gradient_pass.py [ROUNDS]      # about 15 s a round on 2 idle CPU cores

The floor: forward and backward over the demo's rows with all weights frozen, logits at labelled positions only. Rounds
are interleaved; printed are the median over rounds of time / floor, and best time / best floor.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

from curate.influence.checkpoints import Checkpoint
from curate.influence.preconditioning import Adam, Plain
from curate.influence.projection import make_projection
from curate.influence.scoring import Engine, score_rows, target_gradients
from train.encoding import encode_all
from train.models import attach_lora, load_base, load_tokenizer, trainable
from train.per_example import find_taps, graph_from_adapters
from train.per_example.batches import run_in_batches
from train.per_example.passes import batch_losses
from train.settings import LoraSettings

DEMO = Path(__file__).parent.parent / "demo"
ROWS, TARGETS, TOKENS = 400, 100, 4096


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    model_path = str(DEMO / "model")
    tokenizer = load_tokenizer(model_path)
    pool, _ = encode_all(pq.read_table(DEMO / "data/pool.parquet").to_pylist()[:ROWS], tokenizer, 256)
    targets, _ = encode_all(pq.read_table(DEMO / "data/targets.parquet").to_pylist(), tokenizer, 256)
    model = attach_lora(load_base(model_path), LoraSettings(), 0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    zeros = {name: torch.zeros(p.numel()) for name, p in trainable(model).items()}
    checkpoint = Checkpoint(DEMO, 10, (0.9, 0.999), 1e-8, [1e-3], zeros, {n: z + 1e-6 for n, z in zeros.items()})
    taps, pad_id = find_taps(model), tokenizer.pad_token_id
    plain = Engine(model, taps, Plain(), pad_id, TOKENS)
    adam = Engine(model, taps, Adam(checkpoint, "less"), pad_id, TOKENS)
    unit = target_gradients(plain, (targets * 2)[:TARGETS])
    projection = make_projection("sketch", 8192, 0)

    def floor() -> None:
        def work(positions: list[int]) -> None:
            with graph_from_adapters(model, taps):
                batch_losses(model, [pool[i] for i in positions], pad_id, taps).sum().backward()

        run_in_batches([len(row.input_ids) for row in pool], TOKENS, work, lambda positions, result: None)

    ways: dict[str, Callable[[], object]] = {
        "floor": floor,
        "exact, plain": lambda: score_rows(plain, pool, unit),
        "exact, Adam": lambda: score_rows(adam, pool, unit),
        "sketch, Adam": lambda: score_rows(adam, pool, None, projection),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    print(f"{ROWS} rows, {TARGETS} targets, {rounds} rounds")
    for name, values in times.items():
        median = statistics.median(value / base for value, base in zip(values, times["floor"], strict=True))
        print(f"{name:<14} {min(values):6.2f} s  median {median:.2f} x  best {min(values) / min(times['floor']):.2f} x")


if __name__ == "__main__":
    main()
