"""What the gradient pass itself costs over the floor, without loading, targets and storing.

    PYTHONPATH=. .venv/bin/python benchmarks/gradient_pass.py                      # about 15 s a round on 2 CPU cores
    PYTHONPATH=. python benchmarks/gradient_pass.py --llama 2048x16 --precision bfloat16     # on a GPU: a large model

The floor: forward and backward over the demo's rows with all weights frozen, logits at labelled positions only. Rounds
are interleaved; printed are the median over rounds of time / floor, and best time / best floor. --llama: a Llama of
that hidden size and number of layers with random weights, since a small model leaves a GPU idle.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM

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
ROWS, TARGETS = 400, 100


def random_llama(shape: str, folder: Path) -> str:
    """A model of the demo's family, HIDDENxLAYERS, heads of 128, without training; its folder."""
    hidden, layers = (int(part) for part in shape.split("x"))
    config = AutoConfig.from_pretrained(
        DEMO / "model",
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        head_dim=128,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama", metavar="HIDDENxLAYERS")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    arguments = parser.parse_args()
    model_path = str(DEMO / "model")
    tokenizer = load_tokenizer(model_path)
    pool, _ = encode_all(pq.read_table(DEMO / "data/pool.parquet").to_pylist()[:ROWS], tokenizer, 256)
    targets, _ = encode_all(pq.read_table(DEMO / "data/targets.parquet").to_pylist(), tokenizer, 256)
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(random_llama(arguments.llama, Path(folder)) if arguments.llama else model_path)
    model = attach_lora(base, LoraSettings(), 0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    zeros = {name: torch.zeros(p.numel()) for name, p in trainable(model).items()}
    checkpoint = Checkpoint(DEMO, 10, (0.9, 0.999), 1e-8, [1e-3], zeros, {n: z + 1e-6 for n, z in zeros.items()})
    taps, pad_id = find_taps(model), tokenizer.pad_token_id
    plain = Engine(model, taps, Plain(), pad_id, arguments.tokens, arguments.precision)
    adam = Engine(model, taps, Adam(checkpoint, "less", model.device), pad_id, arguments.tokens, arguments.precision)
    unit = target_gradients(plain, (targets * 2)[:TARGETS])
    projection = make_projection("sketch", 8192, 0)

    def floor() -> None:
        def work(positions: list[int]) -> None:
            with graph_from_adapters(model, taps):
                batch = [pool[i] for i in positions]
                batch_losses(model, batch, pad_id, taps, arguments.precision).sum().backward()

        run_in_batches([len(row.input_ids) for row in pool], arguments.tokens, work, lambda positions, result: None)

    ways: dict[str, Callable[[], object]] = {
        "floor": floor,
        "exact, plain": lambda: score_rows(plain, pool, unit),
        "exact, Adam": lambda: score_rows(adam, pool, unit),
        "sketch, Adam": lambda: score_rows(adam, pool, None, projection),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():  # kernels are chosen and caches filled outside the clock
        work()
    for _ in range(arguments.rounds):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    size = sum(p.numel() for p in model.parameters())
    tokens = sum(len(row.input_ids) for row in pool)
    print(
        f"{ROWS} rows of {tokens} tokens, {TARGETS} targets, {size / 1e6:.1f} M parameters on {model.device}, "
        f"{arguments.precision}, {arguments.rounds} rounds; floor: {tokens / min(times['floor']):,.0f} tokens/s"
    )
    for name, values in times.items():
        median = statistics.median(value / base for value, base in zip(values, times["floor"], strict=True))
        print(f"{name:<14} {min(values):6.2f} s  median {median:.2f} x  best {min(values) / min(times['floor']):.2f} x")


if __name__ == "__main__":
    main()
