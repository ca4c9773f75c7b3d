"""What a datamodeling study keeps on disk: the rows, the random subsets, and every retrained model's target losses.

`retrain.py` writes it and goes on where it stopped; `score.py` reads it at any time, also while it grows.

    FOLDER/study.json               settings, and the loss of the targets before any training
    FOLDER/examples/*.parquet       pool and targets as conversations
    FOLDER/encoded/*.parquet        the same as tokens and labels
    FOLDER/warmup/checkpoint-N      warmup on the whole pool, which predictions start from
    FOLDER/losses.npz               members (S, n) bool; losses (S, M) and repeated (R, M) float32, NaN where not done
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from curate.records import Example, read_examples
from train.encoding import Encoded, read_encoded
from train.moments import checkpoint_folders
from train.settings import LoraSettings, OptimizerSettings, Settings

NOTE, LOSSES, WARMUP = "study.json", "losses.npz", "warmup"
POOL, TARGETS = "pool.parquet", "targets.parquet"
EXAMPLES, ENCODED = "examples", "encoded"


class StudyError(ValueError):
    """A study that does not exist, does not fit what was asked, or has too little in it."""


class StudySettings(Settings):
    """What the retrained models depend on; a folder holds one study only."""

    model: str = Field(description="folder or hub id of the base model")
    max_length: int = Field(ge=8, description="tokens per example")
    seed: int = Field(ge=0, description="governs pool, subsets, initial adapter and order")
    rows: int = Field(ge=4, description="pool rows, drawn in proportion to the sources")
    subsets: int = Field(ge=2, description="random halves of the pool, one model each")
    repeats: int = Field(ge=0, description="subsets trained once more in another order: the noise of retraining")
    checkpoints: int = Field(ge=1, description="checkpoints of the warmup")
    lora: LoraSettings
    optimizer: OptimizerSettings


class StudyNote(Settings):
    settings: StudySettings
    untrained: list[float] = Field(description="loss of each target under the base model, nats per token")


@dataclass(frozen=True, eq=False)
class Study:
    """pool (n) and targets (M), encoded and as conversations, in the same order; members: (S, n) bool; losses: (S, M)
    nats per token; repeated: (R, M), subsets 0 to R - 1 in another order of rows; NaN where a model is not trained."""

    folder: Path
    settings: StudySettings
    untrained: np.ndarray
    pool: list[Encoded]
    targets: list[Encoded]
    pool_examples: list[Example]
    target_examples: list[Example]
    members: np.ndarray
    losses: np.ndarray
    repeated: np.ndarray

    @property
    def capabilities(self) -> list[str]:
        return [str(example.capability) for example in self.target_examples]

    @property
    def checkpoints(self) -> list[Path]:
        """The warmup's checkpoints, first to last."""
        return checkpoint_folders(self.folder / WARMUP)

    @property
    def finished(self) -> np.ndarray:
        """(S,) bool: subsets whose model is trained."""
        return np.isfinite(self.losses).all(axis=1)


def read_study(folder: Path) -> Study:
    missing = next((name for name in (NOTE, LOSSES) if not (folder / name).exists()), None)
    if missing:
        raise StudyError(f"{folder} has no {missing}: make the study first with benchmarks/datamodeling/retrain.py")
    note = StudyNote.model_validate_json((folder / NOTE).read_text())
    with np.load(folder / LOSSES) as arrays:
        members, losses, repeated = (arrays[name] for name in ("members", "losses", "repeated"))
    return Study(
        folder=folder,
        settings=note.settings,
        untrained=np.array(note.untrained),
        pool=read_encoded(folder / ENCODED / POOL),
        targets=read_encoded(folder / ENCODED / TARGETS),
        pool_examples=read_examples(folder / EXAMPLES / POOL),
        target_examples=read_examples(folder / EXAMPLES / TARGETS),
        members=members,
        losses=losses,
        repeated=repeated,
    )


def write_losses(folder: Path, members: np.ndarray, losses: np.ndarray, repeated: np.ndarray) -> None:
    """All of it, under a temporary name first: a kill leaves the older file."""
    temporary = folder / f".{LOSSES}"
    with temporary.open("wb") as file:
        np.savez(file, members=members, losses=losses, repeated=repeated)
    temporary.replace(folder / LOSSES)
