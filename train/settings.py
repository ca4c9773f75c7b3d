"""What one training run is told: frozen, validated, documented once; the run configuration embeds these models as they
are.

A `TrainJob` is written as JSON beside the run and read by `accelerate launch -m train JOB`, so that training is a
process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from train.coreset.composition import floor_share
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

    # infinity is a temperature, and plain JSON would write it as null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


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
    init: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default",
        description="how the adapter starts: B zero; A normal; or from the base weights' singular vectors "
        "(PiSSA, arXiv 2404.02948) or QR factors (OLoRA), which the saved adapter does not need",
    )
    quantization: Literal["none", "4bit"] = Field(
        "none", description="4bit: frozen base weights in NF4 (QLoRA); needs a GPU and the package bitsandbytes"
    )

    @model_validator(mode="after")
    def _start_fits(self) -> Self:
        if self.changes_base and self.dora:
            raise ValueError(
                f"init {self.init} and dora: what {self.init} takes out of the base cannot be given back "
                "as a plain adapter once magnitudes are trained; choose one"
            )
        if self.changes_base and self.quantization != "none":
            raise ValueError(f"init {self.init} changes the base weights, which 4-bit storage rounds; choose one")
        return self

    @property
    def changes_base(self) -> bool:
        """Whether `init` takes the adapter's start out of the base weights."""
        return self.init in ("pissa", "olora")

    def adapts(self, name: str) -> bool:
        """Whether linear maps of this name get an adapter."""
        return self.targets == "all-linear" or name in self.targets


class AuditSettings(Settings):
    """What encoding must leave of the rows, for a run to go on."""

    min_rows: float = Field(0.5, ge=0, le=1, description="smallest share of the rows that encoding must leave")
    max_lost_labels: float = Field(
        0.2, ge=0, le=1, description="largest share of the answers' tokens that max_length may cut off"
    )
    max_mismatched: float = Field(
        0.2,
        ge=0,
        le=1,
        description="largest share of rows with which the chat template does not do what they say (refused or dropped "
        "turns, answers that change or do not end)",
    )


class OptimizerSettings(Settings):
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(2.0, gt=0, description="pool draws as a multiple of the data set's rows")
    batch_size: int = Field(16, ge=1, description="examples per optimizer step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="examples per forward pass and process; null: the whole batch at once"
    )
    reduction: Literal["sample", "token", "token_normalized"] = Field(
        "sample",
        description="what the loss is a mean of: examples (each its own mean over label tokens), label tokens, or "
        "label tokens counted with their example's weight",
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps with a rising learning rate")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="shape after the rise")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")

    @property
    def rows_at_once(self) -> int:
        """Examples of one forward pass, in one process."""
        return self.micro_batch_size or self.batch_size


class MixtureSettings(Settings):
    """Which domains the batches come from: temperature sampling, Cooldown (arXiv 2410.04579), UniMax (2304.09151)."""

    mode: Literal["sampling", "scalarization", "none"] = Field(
        "sampling",
        description="draw domains by temperature; or draw proportionally and weigh their losses instead; or neither",
    )
    schedule: Literal["cooldown", "linear", "steps", "unimax", "static"] = Field(
        "cooldown",
        description="one switch from start to end; linearly from start to end; `steps`; uniform under max_epochs; "
        "or `probabilities`",
    )
    start: float = Field(5.0, gt=0, description="temperature at the beginning; 1 is proportional, .inf uniform")
    end: float = Field(1.0, gt=0, description="temperature at the end")
    switch: float = Field(0.5, ge=0, le=1, description="share of the steps that cooldown trains at `start`")
    steps: list[tuple[float, float]] | None = Field(
        None, description="schedule steps: [progress, temperature] pairs, progress rising from 0"
    )
    probabilities: dict[str, float] | None = Field(
        None, description="schedule static: the share of each domain, for example from DoReMi or DoGE"
    )
    max_epochs: float | None = Field(4.0, gt=0, description="no domain is repeated more often; null: no cap")
    rounding: Literal["systematic", "carry"] = Field(
        "systematic",
        description="counts per batch: unbiased, or with the remainder carried to the next batch (within one example "
        "of the plan over the whole run)",
    )
    size_unit: Literal["examples", "tokens"] = Field("examples", description="what the size of a domain counts")
    domains: Literal["source", "clusters"] = Field(
        "source",
        description="domains are the `source` column, or k-means clusters of the base model's mean hidden states "
        "(used anyway where the data has no source)",
    )
    clusters: int = Field(8, ge=2, description="number of clusters, where domains are clusters")

    @field_validator("mode", mode="before")
    @classmethod
    def _one_mode(cls, mode: Any) -> Any:
        if isinstance(mode, list | tuple):
            raise ValueError(
                "sampling and scalarization exclude each other: together a domain would be drawn more often and "
                "weighted for it as well; name one"
            )
        return mode

    @model_validator(mode="after")
    def _parts_fit_together(self) -> MixtureSettings:
        for name, schedule in (("steps", "steps"), ("probabilities", "static")):
            if (getattr(self, name) is not None) != (self.schedule == schedule):
                raise ValueError(f"`{name}` and schedule: {schedule} go together; set both or neither")
        if self.mode != "sampling" and self.schedule in ("unimax", "static"):
            raise ValueError(f"schedule {self.schedule} says how often to draw; mode {self.mode} draws proportionally")
        if self.schedule == "unimax" and self.max_epochs is None:
            raise ValueError("schedule unimax is uniform draws under an epoch cap; set max_epochs")
        return self


class AnnealSettings(Settings):
    start: float = Field(ge=0, description="temperature until `first`")
    end: float = Field(ge=0, description="temperature from `last` on")
    first: float = Field(0.0, ge=0, lt=1, description="share of the steps after which the temperature moves")
    last: float = Field(1.0, gt=0, le=1, description="share of the steps at which it has arrived")

    @model_validator(mode="after")
    def _in_order(self) -> AnnealSettings:
        if self.first >= self.last:
            raise ValueError(f"anneal.first {self.first} must come before anneal.last {self.last}")
        return self


class ReweightingSettings(Settings):
    """Loss-based weights inside a step (arXiv 2502.06733)."""

    strategy: Literal[STRATEGIES] = Field("linupper", description="which losses get more weight")  # type: ignore[valid-type]
    temperature: float = Field(1.0, ge=0, description="softmax temperature; larger is closer to uniform")
    anneal: AnnealSettings | None = Field(None, description="a temperature that moves, instead of `temperature`")
    burn_in: float = Field(0.05, ge=0, lt=1, description="share of the steps before weights act")
    delta: float = Field(1.0, gt=0, description="losses are scaled to [-delta, delta] first")
    cap: float | None = Field(2.0, ge=1, description="largest weight, the mean being 1; null: none")
    exponent: float = Field(1.0, gt=0, description="power of this weight in the product with the other weights")
    scope: Literal["step", "micro"] = Field(
        "step",
        description="compare the losses of a whole optimizer step, or of one micro-batch over all processes "
        "(as published)",
    )
    min_max: Literal["batch", "source"] = Field(
        "batch", description="scale losses over all examples, or within each source, which leaves the mixture alone"
    )


class CoresetSettings(Settings):
    """CoLM mini-batch coresets (arXiv 2407.19580): draw a pool, train on its medoids and on all its small sources."""

    ratio: float = Field(0.5, gt=0, le=1, description="trained share of each pool")
    feature: Literal["last_layer", "spsa", "random"] = Field(
        "last_layer",
        description="exact gradient of the last value projection; its slope in `directions` random directions "
        "(published: one); or random picks, the control",
    )
    directions: int = Field(1, ge=1, description="random directions of feature spsa")
    epsilon: float = Field(1e-3, gt=0, description="length of the step that feature spsa takes in a direction")
    mask_size: int = Field(512, ge=1, description="coordinates kept per source, the largest ones (last_layer)")
    kappa: float = Field(0.75, gt=0, le=1, description="largest share of the core that small sources may take")
    small_sources: list[str] | None = Field(
        None, description="sources that are always kept; null: those drawn less often than the average source"
    )
    quotas: Literal["proportional", "largest_remainder", "balanced", "none"] = Field(
        "proportional", description="how the rest of the core is shared among the other sources"
    )
    cluster_exponent: float = Field(
        0.0, ge=0, description="power of a pick's cluster size in its weight; 0: uniform weights, as published"
    )

    def core_size(self, pool_size: int) -> int:
        """Examples trained of a pool."""
        return floor_share(self.ratio, pool_size)


class TrainingParts(Settings):
    """How to train, whatever on; the parts are checked against each other here, for a job and for a whole run."""

    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    mixture: MixtureSettings | None = Field(None, description="which domains the batches come from; null: as they are")
    reweighting: ReweightingSettings | None = Field(None, description="loss-based weights; null: uniform")
    coreset: CoresetSettings | None = Field(None, description="coreset mini-batches; null: the whole batch")
    save_every: int | None = Field(
        None, ge=1, description="optimizer steps between the checkpoints a killed run goes on from; null: ten a run"
    )
    tensorboard: bool = Field(False, description="also write the log as TensorBoard events; needs that package")

    @property
    def core_size(self) -> int:
        """Examples trained of every batch."""
        batch = self.optimizer.batch_size
        return self.coreset.core_size(batch) if self.coreset else batch

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        batch, core = self.optimizer.batch_size, self.core_size
        if core < 1:
            raise ValueError("coreset.ratio x optimizer.batch_size leaves no example to train on; raise one of them")
        if self.reweighting and core == 1:
            raise ValueError(
                f"reweighting compares the losses of the trained examples: batch_size {batch} has one; raise it or "
                "switch it off"
            )
        if self.reweighting and self.reweighting.scope == "micro" and self.optimizer.micro_batch_size == 1:
            raise ValueError(
                "reweighting.scope micro compares the losses of a micro-batch: micro_batch_size 1 has none; "
                "use scope step"
            )
        if self.coreset and self.coreset.feature == "spsa" and self.lora.quantization != "none":
            raise ValueError(
                "coreset.feature spsa takes differences that 4-bit maps round away; use last_layer or random"
            )
        if self.coreset and self.coreset.feature != "random" and not self.lora.adapts("v_proj"):
            raise ValueError(
                f"coreset.feature {self.coreset.feature} is read off an adapted v_proj, which lora.targets leaves out; "
                "add it or use coreset.feature: random"
            )
        return self


class TrainJob(TrainingParts):
    model: str = Field(description="folder or hub id of the base model")
    data: Path = Field(
        description="Parquet file or folder of them, with id, source and either messages or input_ids and labels"
    )
    output: Path = Field(description="folder for the adapter, the log and the checkpoints")
    seed: int = Field(17, ge=0, description="governs order, initial adapter and dropout")
    max_length: int = Field(512, ge=8, description="tokens per example; longer ones are cut on the right")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    checkpoints: int = Field(0, ge=0, description="evenly spaced checkpoints with Adam moments, for influence")
    merge: bool = Field(True, description="also write the base model with the adapter merged in")
