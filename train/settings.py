"""What one training run is told: frozen, validated, documented once; the run configuration embeds these models as they
are.

A `TrainJob` is written as JSON beside the run and read by `accelerate launch -m train JOB`, so that training is a
process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from train.names import nearest_path
from train.reweighting import STRATEGIES

Precision = Literal["float32", "bfloat16"]
Layers = Literal["all", "top_half"]  # of the decoder
MIXTURE_LOG = "mixture.jsonl"  # what was drawn and trained, one line per optimizer step


def existing(path: Path) -> Path:
    """The path, if there is something; a path is looked for when settings are read, not after an hour."""
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}{nearest_path(path)}")
    return path


ExistingPath = Annotated[Path, AfterValidator(existing)]


def faults(error: ValidationError) -> str:
    """Every fault of a job file in one line, for the processes that read one."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}" for e in error.errors())


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(Settings):
    r: int = Field(16, ge=1, description="rank of the adapter")
    alpha: float = Field(32, gt=0, description="scale: the update is multiplied by alpha / r, or as rslora says")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input while training")
    targets: list[str] | Literal["all-linear"] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], description="names of the adapted linear maps, or all-linear"
    )
    rslora: bool = Field(
        False, description="scale by alpha / sqrt(r) instead, so that large ranks still learn (arXiv 2312.03732)"
    )
    dora: bool = Field(False, description="also train one magnitude per output: DoRA (arXiv 2402.09353)")


class OptimizerSettings(Settings):
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(2.0, gt=0, description="pool draws as a multiple of the data set's rows")
    batch_size: int = Field(16, ge=1, description="examples per optimizer step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="examples per forward pass and process; null: the whole batch at once"
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps with a rising learning rate")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="shape after the rise")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")


class MixtureSettings(Settings):
    """Temperature sampling over domains; Cooldown switches once from `start` to `end` (arXiv 2410.04579)."""

    start: float = Field(5.0, gt=0, description="temperature before the switch; 1 is proportional")
    end: float = Field(1.0, gt=0, description="temperature after the switch")
    switch: float = Field(0.5, ge=0, le=1, description="share of the steps that use `start`")
    max_epochs: float | None = Field(4.0, gt=0, description="no domain is repeated more often; null: no cap")


class ReweightingSettings(Settings):
    """Loss-based weights inside a step (arXiv 2502.06733)."""

    strategy: Literal[STRATEGIES] = Field("linupper", description="which losses get more weight")  # type: ignore[valid-type]
    temperature: float = Field(1.0, ge=0, description="softmax temperature; larger is closer to uniform")
    burn_in: float = Field(0.05, ge=0, lt=1, description="share of the steps before weights act")
    cap: float | None = Field(2.0, ge=1, description="largest weight, the mean being 1; null: none")


class CoresetSettings(Settings):
    """CoLM mini-batch coresets (arXiv 2407.19580): draw a pool, train on its medoids and on all its small sources."""

    ratio: float = Field(0.5, gt=0, le=1, description="trained share of each pool")
    feature: Literal["last_layer", "random"] = Field(
        "last_layer", description="exact gradient of the last value projection, or random picks as the control"
    )
    mask_size: int = Field(512, ge=1, description="coordinates kept per source, the largest ones")
    kappa: float = Field(0.75, gt=0, le=1, description="largest share of the core that small sources may take")


class TrainJob(Settings):
    model: str = Field(description="folder or hub id of the base model")
    data: Path = Field(
        description="Parquet file or folder of them, with id, source and either messages or input_ids and labels"
    )
    output: Path = Field(description="folder for the adapter, the log and the checkpoints")
    seed: int = Field(17, ge=0, description="governs order, initial adapter and dropout")
    max_length: int = Field(512, ge=8, description="tokens per example; longer ones are cut on the right")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    mixture: MixtureSettings | None = None
    reweighting: ReweightingSettings | None = None
    coreset: CoresetSettings | None = None
    checkpoints: int = Field(0, ge=0, description="evenly spaced checkpoints with Adam moments, for influence")
    merge: bool = Field(True, description="also write the base model with the adapter merged in")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> TrainJob:
        if self.reweighting and self.optimizer.batch_size == 1:
            raise ValueError(
                "reweighting compares the losses of a batch: batch_size 1 has none; raise it or switch it off"
            )
        if self.coreset and int(self.coreset.ratio * self.optimizer.batch_size) < 1:
            raise ValueError("coreset.ratio x optimizer.batch_size leaves no example to train on; raise one of them")
        return self
