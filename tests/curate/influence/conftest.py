"""A warmed-up tiny model: trained by the real trainer once for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny import make_base, make_rows, make_tokenizer
from train.__main__ import run
from train.encoding import write_encoded
from train.settings import LoraSettings, OptimizerSettings, TrainJob


@dataclass(frozen=True)
class Warmup:
    base: Path
    checkpoints: list[Path]
    sample: Path


@pytest.fixture(scope="package")
def warmup(tmp_path_factory) -> Warmup:
    folder = tmp_path_factory.mktemp("warmup")
    base, sample, output = folder / "base", folder / "sample.parquet", folder / "trained"
    make_base("qwen2").save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    write_encoded(sample, make_rows(16, seed=9, prefix="sample"))
    job = TrainJob(
        model=str(base), data=sample, output=output, max_steps=4, checkpoints=2, merge=False,
        lora=LoraSettings(r=2, alpha=4),
        optimizer=OptimizerSettings(batch_size=4, learning_rate=0.05),
    )  # fmt: skip
    run(job)
    return Warmup(base, [output / "checkpoint-1", output / "checkpoint-2"], sample)
