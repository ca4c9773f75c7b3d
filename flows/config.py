"""The run configuration: one frozen pydantic model, read from YAML, with `--set key=value` overrides.

All errors are reported at once, each with the key, the value and what would be valid, before any work starts. Settings
of training are `train.settings` as they are, so a field is described in one place. Relative paths are relative to the
working directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from curate.cleaning.settings import CleaningSettings
from curate.export.licenses import forbidden
from curate.export.settings import ExportSettings
from curate.figures.settings import FigureSettings
from curate.influence.settings import InfluenceSettings
from curate.local_or_hub import existing_or_hub
from curate.selection.settings import SelectionSettings
from curate.sources import SourceSpec
from curate.sources.opening import check_path, is_pattern, is_url
from eval.sandbox import SandboxLimits
from eval.statistics import RESAMPLES
from flows.execution import ExecutionSettings
from flows.nightly.settings import PromotionSettings
from flows.store import StageStore
from flows.store.opening import DEFAULT_CACHE, check_location, open_store
from train.launch_file import LaunchFilePath, read_launch_file
from train.names import nearest, nearest_path
from train.settings import AuditSettings, ExistingPath, LoraSettings, OptimizerSettings, Settings, TrainingParts


class ConfigError(ValueError):
    """A configuration that cannot be run; the message lists every problem."""


class DataSettings(Settings):
    pool: list[SourceSpec] = Field(min_length=1, description="where the pool's rows come from")
    targets: list[SourceSpec] = Field(
        min_length=1, description="a few examples per capability; each row needs `capability`"
    )
    max_rejected: float = Field(0.01, ge=0, le=1, description="largest share of unreadable rows before the run stops")
    processes: int | None = Field(
        None, ge=1, description="processes that clean the pool, with the same result; null: one per core"
    )
    cleaning: CleaningSettings = CleaningSettings()

    @field_validator("pool", "targets")
    @classmethod
    def _sources_exist(cls, sources: list[SourceSpec]) -> list[SourceSpec]:
        problems = []
        for source in sources:
            try:
                if is_url(source.path) or is_pattern(source.path):
                    check_path(source.path)
                else:
                    existing_or_hub(source.path)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        return sources


class WarmupSettings(Settings):
    fraction: float = Field(0.05, gt=0, le=1, description="random share of the pool the warmup trains on (LESS: 0.05)")
    checkpoints: int = Field(4, ge=1, description="evenly spaced checkpoints that enter the influence")
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings(epochs=4)
    accelerate: LaunchFilePath | None = Field(None, description="accelerate configuration file; null: one process")

    @model_validator(mode="after")
    def _moments_stay_whole(self) -> WarmupSettings:
        if self.accelerate is not None:
            file = read_launch_file(self.accelerate)
            file.divide(self.optimizer.batch_size)
            file.refuse_pieces("the warmup keeps Adam's moments by parameter, whole, for the influence")
        return self

    @field_validator("lora")
    @classmethod
    def _starts_from_the_base(cls, lora: LoraSettings) -> LoraSettings:
        if lora.changes_base:
            raise ValueError(
                f"init {lora.init} changes the base weights, and influence is measured on the base itself; "
                "use default or gaussian for the warmup"
            )
        if lora.quantization != "none":
            raise ValueError(
                f"quantization {lora.quantization} rounds the base weights, and influence is measured on the base "
                "as it is; use none for the warmup"
            )
        return lora


class FinetuneSettings(TrainingParts):
    seeds: list[int] = Field(
        [], description="train every selection once per seed, so that intervals cover their luck; empty: the run's own"
    )
    accelerate: LaunchFilePath | None = Field(None, description="accelerate configuration file; null: one process")

    @model_validator(mode="after")
    def _parts_fit_the_processes(self) -> FinetuneSettings:
        if self.accelerate is None:
            return self
        file = read_launch_file(self.accelerate)
        file.divide(self.optimizer.batch_size)
        if self.coreset:
            file.refuse_pieces("finetune.coreset replays one layer, which must be whole")
        if self.lora.quantization != "none":
            file.refuse_pieces(f"finetune.lora.quantization {self.lora.quantization} packs weights that cannot be cut")
        if file.sharding == "DeepSpeed" and self.optimizer.micro_batch_size:
            raise ValueError(
                f"{file.path} asks for DeepSpeed, which steps at every backward pass; leave "
                "finetune.optimizer.micro_batch_size unset, or use plain processes or FSDP"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
            raise ValueError("training seeds must be different whole numbers from 0 on")
        return seeds


class EvaluationSettings(Settings):
    items: list[ExistingPath] = Field(
        [], description="Parquet files with id, capability, prompt and target, for the held-out loss"
    )
    tasks: list[str] = Field([], description="lm-evaluation-harness tasks to run on vLLM")
    task_folder: ExistingPath | None = Field(None, description="folder of task YAML files that `tasks` may name")
    limit: int | None = Field(None, ge=1, description="first items of every task only")
    backend: Literal["vllm", "hf", "server"] = Field("vllm", description="engine of the tasks")
    url: str | None = Field(None, description="of a vLLM server's API, such as http://127.0.0.1:8000/v1 (server only)")
    served: dict[str, list[str]] = Field(
        {}, description="model of the run -> what the server calls it, one name per training seed (server only)"
    )
    adapters: Literal["auto", "lora", "merged"] = Field(
        "auto", description="how vLLM runs adapters; auto: as LoRA requests on a GPU, merged into the weights on a CPU"
    )
    overflow: Literal["error", "cut"] = Field(
        "error", description="prompts longer than the context: stop before anything runs, or cut them on the left"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="type of the weights in the engine"
    )
    run_code: bool = Field(False, description="run programs that the models write, in a sandbox; needs bubblewrap")
    sandbox: SandboxLimits = SandboxLimits()
    python: ExistingPath | None = Field(
        None, description="interpreter of another environment for the engine; null: this one"
    )
    max_model_len: int | None = Field(None, ge=16, description="tokens of prompt and answer; null: max_length")
    leaks: Literal["stop", "drop_targets", "drop_items"] = Field(
        "stop",
        description="targets that overlap scoring items: stop before any work, steer without these targets, or score "
        "without these items",
    )
    resamples: int = Field(RESAMPLES, ge=100, description="bootstrap resamples behind every interval")

    @model_validator(mode="after")
    def _something_is_measured(self) -> EvaluationSettings:
        if not self.items and not self.tasks:
            raise ValueError("give `items` (files for the held-out loss), `tasks` (for accuracy) or both")
        if (self.backend == "server") != (self.url is not None):
            raise ValueError("give `url` with backend: server, and only with it")
        return self


class RunConfig(Settings):
    """Everything one run is told."""

    name: str = Field(description="name of the run, in the report and the Prefect UI", pattern=r"^\w[\w.-]*$")
    seed: int = Field(17, ge=0, description="one seed for subsets, order, adapters, resamples")
    store: str = Field(".equipoise", description="where the stage outputs are: a folder, or s3://bucket/prefix")
    store_cache: Path = Field(
        DEFAULT_CACHE, description="folder of the local copies of stores that are URLs; nothing in it is lost with it"
    )
    model: str = Field(description="folder or hub id of the base model")
    max_length: int = Field(2048, ge=8, description="tokens per example; longer ones are cut on the right")
    data: DataSettings
    audit: AuditSettings = AuditSettings()
    warmup: WarmupSettings = WarmupSettings()
    influence: InfluenceSettings = InfluenceSettings()
    selection: SelectionSettings = SelectionSettings()
    figures: FigureSettings = FigureSettings()
    export: ExportSettings = ExportSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    evaluation: EvaluationSettings
    promotion: PromotionSettings = PromotionSettings()
    execution: ExecutionSettings = ExecutionSettings()

    def open_store(self) -> StageStore:
        """Where `store` says, worked on in `store_cache` where that is a URL."""
        return open_store(self.store, self.store_cache)

    def training_seeds(self) -> list[int]:
        """The seeds with which every selection is trained on."""
        return self.finetune.seeds or [self.seed]

    def promoted_method(self) -> str:
        """The selection whose adapter may go live."""
        return self.promotion.method or self.selection.methods[0]

    @model_validator(mode="after")
    def _promoted_method_is_run(self) -> RunConfig:
        method = self.promotion.method
        if method is not None and method not in self.selection.methods:
            raise ValueError(
                f"promotion.method {method!r} is not run{nearest(method, self.selection.methods)}; selection.methods: "
                f"{', '.join(self.selection.methods)}"
            )
        return self

    @model_validator(mode="after")
    def _licenses_permit_the_export(self) -> RunConfig:
        named = {f"data.pool.{k} ({spec.path})": [spec.license or ""] for k, spec in enumerate(self.data.pool)}
        if problems := forbidden(named, self.export.allow_licenses):
            raise ValueError("\n".join(problems))
        return self

    @field_validator("model")
    @classmethod
    def _model_exists(cls, model: str) -> str:
        return existing_or_hub(model)

    @model_validator(mode="after")
    def _one_way_to_share_gradients(self) -> RunConfig:
        if self.execution.engine == "ray" and self.influence.accelerate:
            raise ValueError(
                "execution.engine ray shares the gradients among the cluster's workers, influence.accelerate among "
                "processes of this machine; leave one of them out"
            )
        return self

    @field_validator("store", mode="before")
    @classmethod
    def _store_as_text(cls, store: object) -> object:
        return str(store) if isinstance(store, Path) else store

    @field_validator("store")
    @classmethod
    def _store_can_be_there(cls, store: str) -> str:
        return check_location(store)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `a.b.c=value` overrides (values in YAML syntax) and validate.

    Raises `ConfigError` with every problem at once.
    """
    if not path.is_file():
        raise ConfigError(f"no such configuration file: {path}{nearest_path(path)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    return validate(raw, str(path))


def validate(raw: dict[str, Any], origin: str = "configuration") -> RunConfig:
    """`RunConfig` from plain values; raises `ConfigError` naming every bad key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _explain(problem)]
        raise ConfigError(
            f"{origin}: {len(lines)} problem(s)\n" + "\n".join(f"  - {line}" for line in lines)
        ) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r} is not of the form key=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is not valid YAML: {' '.join(str(error).split())}") from error
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        elif isinstance(node, dict):
            node = node.setdefault(part, {}) if node.get(part) is None else node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {key}: {part!r} holds a single value or nothing, so it has no {last!r} to set")
    if isinstance(node, list):
        if not (last.isdigit() and int(last) < len(node)):
            raise ConfigError(f"--set {key}: {last!r} is not a position of a list of {len(node)}")
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _explain(problem: Any) -> list[str]:
    """One or more readable lines for one pydantic error."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return [f"{key}: unknown key{nearest(location[-1], _fields_at(RunConfig, location[:-1]))}"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return [f"{key}: is required and not given"]
    if problem["type"] == "value_error":
        return [f"{key}: {line}" if key else line for line in message.splitlines()]
    return [f"{key}: {message} (got {problem['input']!r})"]


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Names of the settings at a place in the configuration, for suggestions."""
    for part in location:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        inner = [field.annotation, *get_args(field.annotation)]
        nested = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)
