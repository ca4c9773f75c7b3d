"""Does the embedded model react to data? Fine-tune it on one capability at a time, measure the held-out loss of all.

    python demo/transfer.py --work DIR        # about 8 minutes on 2 CPU cores; writes demo/model/transfer.json

Rows: what was trained on (150 rows of the demo pool, the same steps and seed each). Columns: the capability measured.
A cell is the change of held-out bits per byte against the base model, with a 95 % bootstrap interval over items. A
demo of data selection means something only if the diagonal falls and rows differ.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from build_data import HERE

from eval.heldout import bits_by_capability, encode_held_out, held_out_losses
from eval.items import read_items
from eval.statistics import paired_difference
from train.__main__ import run
from train.models import load_base, load_tokenizer
from train.settings import OptimizerSettings, TrainJob

SOURCES = {
    "math": ["gsm8k"],
    "code": ["conala", "nl2bash"],
    "reasoning": ["commonsense_qa", "strategyqa"],
    "knowledge": ["opentriviaqa", "openbookqa"],
    "multilingual": ["tatoeba", "xcopa"],
}
ROWS, SEED, MAX_LENGTH = 150, 17, 256
MODEL = HERE / "model"


def held_out_bits(model: Path) -> dict[str, dict[str, float]]:
    """Capability -> item id -> held-out bits per byte."""
    items = read_items(sorted((HERE / "data" / "eval").glob("*.parquet")))
    rows = [{"id": item.id, "capability": item.capability, "messages": item.messages()} for item in items]
    tokenizer = load_tokenizer(str(MODEL))
    encoded, _ = encode_held_out(rows, tokenizer, MAX_LENGTH)
    return bits_by_capability(held_out_losses(load_base(str(model)), encoded, tokenizer.pad_token_id))


def fine_tune(capability: str, pool: list[dict], work: Path) -> Path:
    rows = [row for row in pool if row["source"] in SOURCES[capability]]
    sample = random.Random(SEED).sample(rows, min(ROWS, len(rows)))
    folder = work / capability
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(sample), folder / "rows.parquet")
    job = TrainJob(
        model=str(MODEL),
        data=folder / "rows.parquet",
        output=folder,
        seed=SEED,
        max_length=MAX_LENGTH,
        optimizer=OptimizerSettings(learning_rate=1e-3, epochs=4, batch_size=16),
    )
    run(job)
    return folder / "merged"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the adapters")
    work = parser.parse_args().work
    pool = pq.read_table(HERE / "data" / "pool.parquet").to_pylist()
    base = held_out_bits(MODEL)
    table: dict[str, dict[str, list[float]]] = {}
    for capability in SOURCES:
        tuned = held_out_bits(fine_tune(capability, pool, work))
        table[capability] = {}
        for measured, values in tuned.items():
            change = paired_difference(values, base[measured], seed=SEED)
            table[capability][measured] = [change.mean, change.low, change.high]
            print(f"{capability:>13} -> {measured:<13} {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
    means = {name: sum(values.values()) / len(values) for name, values in base.items()}
    result = {"rows": ROWS, "seed": SEED, "base_bits_per_byte": means, "change": table}
    (MODEL / "transfer.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
