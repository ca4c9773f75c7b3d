"""What the pipeline calls the training runs of one dataset, so that whoever reads a run finds them."""

from __future__ import annotations

from collections.abc import Sequence

FINETUNE = "finetune-"  # before the name of a training run, the name of its stage


def seed_names(dataset: str, seeds: Sequence[int]) -> list[str]:
    """A name per training seed: the first seed's run goes by the dataset's own, the others' by `name-seed18`."""
    return [f"{dataset}-seed{seed}" if number else dataset for number, seed in enumerate(seeds)]
