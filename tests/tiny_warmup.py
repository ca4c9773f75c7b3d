"""A warmed-up tiny model, trained by the real trainer in about a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.tiny import make_base, make_rows, make_tokenizer
from train.__main__ import run
from train.encoding import write_encoded
from train.settings import LoraSettings, OptimizerSettings, TrainJob


@dataclass(frozen=True)
class Warmup:
    """folder: as the warmup stage leaves it, with `sample` and `checkpoints`."""

    base: Path
    folder: Path
    checkpoints: list[Path]
    sample: Path


def make_warmup(folder: Path) -> Warmup:
    base, output = folder / "base", folder / "trained"
    sample = output / "sample.parquet"
    output.mkdir(parents=True)
    make_base("qwen2").save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    write_encoded(sample, make_rows(16, seed=9, prefix="sample"))
    job = TrainJob(
        model=str(base), data=sample, output=output, max_steps=4, checkpoints=2, merge=False,
        lora=LoraSettings(r=2, alpha=4),
        optimizer=OptimizerSettings(batch_size=4, learning_rate=0.05),
    )  # fmt: skip
    run(job)
    return Warmup(base, output, [output / "checkpoint-1", output / "checkpoint-2"], sample)
