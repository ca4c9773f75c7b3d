"""What the influence engine is told: frozen, validated, part of the run configuration as it is.

A `GradientJob` is written as JSON beside the run and read by `python -m curate.influence JOB`, so that the gradient
pass is a process of its own, or several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from curate.influence.features import FeatureIdentity
from train.launch_file import LaunchFilePath, read_launch_file
from train.settings import Layers, Precision, Settings

Rule = Literal["less", "torch", "sgd", "ekfac"]
Mode = Literal["exact", "sketch", "rademacher"]


class CurvatureSettings(Settings):
    """EK-FAC's fit (used by preconditioner `ekfac` only)."""

    rows: int = Field(512, ge=1, description="rows of the warmup's sample that the curvature is fitted on")
    labels: Literal["sampled", "own"] = Field(
        "sampled", description="sampled: from the model's prediction (its Fisher matrix); own: the rows' labels"
    )
    damping: float = Field(0.1, gt=0, description="added to every eigenvalue, as a share of the layer's mean")


class InfluenceSettings(Settings):
    mode: Mode = Field(
        "exact",
        description="exact: dot products with every target gradient; sketch: store sparse-sketched gradients, so that "
        "new targets cost no new pass; rademacher: the published dense projection, slow",
    )
    preconditioner: Rule = Field(
        "less", description="how a gradient is shaped: less or torch (Adam rules), ekfac (curvature), sgd (not at all)"
    )
    score: Literal["dot", "cosine"] = Field(
        "cosine",
        description="dot: what the row's whole step does for a target; cosine: its direction only, as published (a row "
        "with a long answer has a short gradient)",
    )
    curvature: CurvatureSettings = CurvatureSettings()
    layers: Layers = Field("all", description="top_half: gradients of the upper half of the decoder layers only")
    full_rank: list[str] = Field(
        [], description="linear maps of the base model whose own weights are covered too, by name (sgd and ekfac only)"
    )
    dimension: int = Field(8192, ge=8, description="values per stored gradient in the modes sketch and rademacher")
    projection_seed: int = Field(0, ge=0, description="seed of the projection; each checkpoint has its own")
    stored_as: Literal["float32", "float16", "int8"] = Field(
        "float16", description="number type of stored gradients; cosines are always float32"
    )
    noise_rows: int = Field(128, ge=0, description="pool rows scored exactly too, to report the projection's noise")
    precision: Precision = Field("float32", description="bfloat16: forward and backward under autocast")
    tokens_per_batch: int = Field(4096, ge=16, description="padded tokens per gradient pass")
    shard_rows: int = Field(
        512, ge=1, description="pool rows per shard; a killed run goes on at the first missing shard"
    )

    accelerate: LaunchFilePath | None = Field(
        None, description="accelerate configuration file, to share the shards among processes; null: one process"
    )

    @field_validator("accelerate")
    @classmethod
    def _processes_hold_the_model(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_launch_file(path).refuse_pieces("the gradients of single rows need the whole model in every process")
        return path

    @property
    def needs_moments(self) -> bool:
        """Whether the preconditioner is an Adam rule, which starts from the warmup's moments."""
        return self.preconditioner in ("less", "torch")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> InfluenceSettings:
        if self.full_rank and self.needs_moments:
            raise ValueError(
                f"full_rank: the warmup trains the adapter only, so {', '.join(self.full_rank)} has no Adam moments "
                f"for preconditioner {self.preconditioner}; use ekfac or sgd"
            )
        return self


class GradientJob(Settings):
    model: str = Field(description="folder or hub id of the base model")
    model_digest: str = Field(description="content hash of the base model and its tokenizer")
    max_length: int = Field(ge=1, description="tokens per example the rows were cut at")
    seed: int = Field(ge=0, description="governs which rows measure curvature and noise")
    checkpoints: list[Path] = Field(min_length=1, description="warmup checkpoints, first to last")
    sample: Path = Field(description="encoded rows the warmup trained on; the curvature is measured there")
    pool: Path = Field(description="encoded pool rows")
    targets: Path = Field(description="encoded target rows")
    features: Path = Field(description="folder of the feature stores, shared by all runs")
    output: Path = Field(description="folder for the job's outcome")
    code: str = Field("", description="digest of the sources that compute the values, so that a mended one starts anew")
    settings: InfluenceSettings = InfluenceSettings()


class CheckpointOutcome(Settings):
    """What the job did at one checkpoint. excluded: row or target id -> reason."""

    checkpoint: Path
    store: Path = Field(description="feature store of the checkpoint, or a copy by links that the run keeps")
    identity: FeatureIdentity
    weight: float = Field(description="share in the matrix: mean learning rate used, normalised over checkpoints")
    rows_found: int = Field(
        0,
        description="rows that earlier runs had left in the store; not written down, where outputs must be the same",
    )
    excluded: dict[str, str]
    small_v_share: float | None = Field(description="share of coordinates with v' below eps (Adam rules)")
    out_of_memory: int = Field(description="how often a batch was halved")
    noise: dict[str, float] | None = Field(description="sketched against exact scores on a sample; null when exact")
    fidelity: dict[str, float] | None = Field(description="stored against computed values; null for float32")
