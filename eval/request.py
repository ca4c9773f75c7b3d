"""What an evaluation is asked and what it answers: the JSON that crosses the process boundary.

Both sides are frozen pydantic models, so that a request written by one Python environment is checked by another before
anything heavy is imported. Unknown fields are errors: a misspelt `max_model_len` must not quietly mean the default.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eval.errors import EvaluationError
from eval.sandbox import SandboxLimits


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelToEvaluate(_Frozen):
    """A model by the name that the results carry.

    Of an adapter, `merged` spares the merging where the engine cannot take the adapter itself.
    """

    name: str = Field(min_length=1, description="the name in the results, unique in the request")
    path: str = Field(min_length=1, description="folder of a whole model with its tokenizer, or a hub id")
    adapter: str | None = Field(None, description="folder of a LoRA adapter for the model at `path`")
    merged: str | None = Field(None, description="folder of the weights with the adapter merged in, if there is one")
    served: str | None = Field(None, description="what the server calls it (server only); unset: `path`")


class EngineSettings(_Frozen):
    """How models are run. Unset values take the engine's own default on the device at hand."""

    backend: Literal["vllm", "hf", "server"] = Field(
        "vllm",
        description="vllm; hf for plain transformers (slower, no extra needed); server for a vLLM server that runs",
    )
    url: str | None = Field(None, description="of the server's OpenAI-compatible API, such as http://127.0.0.1:8000/v1")
    concurrency: int = Field(8, gt=0, description="requests under way at once (server only)")
    timeout_s: int = Field(600, gt=0, description="seconds to wait for one answer (server only)")
    adapters: Literal["auto", "lora", "merged"] = Field(
        "auto",
        description="how vLLM runs an adapter: lora as a request on the loaded base model, merged as weights of its "
        "own; auto: lora on a GPU where vLLM supports the adapter, else merged",
    )
    overflow: Literal["error", "cut"] = Field(
        "error", description="prompts longer than the context: stop before anything runs, or cut them on the left"
    )
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = Field("bfloat16", description="type of the weights")
    max_model_len: int | None = Field(None, gt=1, description="tokens of context; unset: the model's own limit")
    kv_cache_gib: int = Field(1, gt=0, description="KV cache on a CPU, GiB")
    gpu_memory_utilization: float = Field(0.8, gt=0, le=1, description="share of a GPU's memory that vLLM may take")
    tensor_parallel_size: int = Field(1, gt=0, description="GPUs that share one model (vLLM)")
    enforce_eager: bool | None = Field(None, description="no compilation; unset: true on a CPU, false on a GPU (vLLM)")
    batch_size: int = Field(16, gt=0, description="sequences in a batch (hf only; vLLM schedules by itself)")
    trust_remote_code: bool = Field(False, description="run code that ships with the model")

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> EngineSettings:
        if (self.backend == "server") != (self.url is not None):
            raise ValueError("give `url` with the backend server, and only with it")
        return self


class EvaluationRequest(_Frozen):
    """Models times tasks, evaluated one model after another in one process."""

    models: tuple[ModelToEvaluate, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1, description="names of tasks or tags, from the folder or lm-eval's own")
    task_folder: str | None = Field(
        None, description="folder with lm-eval task YAML files; data paths are relative to each file"
    )
    limit: int | None = Field(None, gt=0, description="items per task; unset: all")
    engine: EngineSettings = Field(default_factory=lambda: EngineSettings.model_validate({}))
    seed: int = Field(0, ge=0)
    run_code: bool = Field(False, description="run programs that the models write, in a sandbox, for tasks that ask it")
    sandbox: SandboxLimits = Field(default_factory=lambda: SandboxLimits.model_validate({}))

    @model_validator(mode="after")
    def _names_are_unique(self) -> EvaluationRequest:
        for what, names in (("model name", [m.name for m in self.models]), ("task", list(self.tasks))):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is given more than once")
        return self


class ItemResult(_Frozen):
    """One model's result on one item of one task."""

    model: str
    task: str
    item_id: str = Field(description="the item's own `id` column, else its position in the task's data")
    capability: str | None = None
    prompt: str | None = Field(None, description="the item's own text, without examples and chat template")
    metrics: dict[str, float]
    log_likelihoods: tuple[float, ...] | None = Field(None, description="nats per choice, in the choices' order")
    answer: str | None = Field(None, description="what a generative task's filter kept of the model's text")
    truncated: bool = Field(False, description="the prompt did not fit and was cut on the left")


class EngineInfo(_Frozen):
    """What ran."""

    backend: str
    device: str
    dtype: str
    python: str
    versions: dict[str, str]


class EvaluationResponse(_Frozen):
    """Every item's result, so that intervals and paired tests need nothing else."""

    items: tuple[ItemResult, ...]
    engine: EngineInfo
    seconds: dict[str, float] = Field(description="wall seconds per model: load, evaluate, free")
    notes: tuple[str, ...] = Field((), description="what a reader of the results should know: how adapters were run")
    seconds_start_up: float = Field(description="imports, before the first model")


def _known_fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Field names of the model at a place in the request, for the nearest-name hint."""
    for part in location:
        if not isinstance(part, str):
            continue
        annotation: Any = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "request"
        if problem["type"] == "extra_forbidden":
            known = _known_fields(model, problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            lines.append(f"{place}: unknown field; {hint}")
        else:
            got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r:.80})"
            lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(lines)


def parse_request(text: str, origin: str = "the request") -> EvaluationRequest:
    """The request in a JSON text. Raises `EvaluationError` naming every wrong field and the nearest valid name."""
    try:
        return EvaluationRequest.model_validate_json(text)
    except ValidationError as error:
        raise EvaluationError(f"{origin}: {_explain(error, EvaluationRequest)}") from error


def check_paths(request: EvaluationRequest) -> None:
    """Refuse folders that no engine can load, before a process starts. What is no local path is taken for a hub id."""
    for model in request.models:
        _check_model(model.name, model.path)
        if model.merged is not None:
            _check_model(model.name, model.merged)
        if model.adapter is not None and not (Path(model.adapter) / "adapter_config.json").is_file():
            raise EvaluationError(
                f"model {model.name!r}: {model.adapter} has no adapter_config.json, so it is not a LoRA adapter"
            )
    if request.task_folder is not None and not Path(request.task_folder).is_dir():
        raise EvaluationError(f"task_folder: no such folder: {request.task_folder}")


def _check_model(name: str, path: str) -> None:
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or path.startswith(("./", "../", "~")):
            raise EvaluationError(f"model {name!r}: no such folder: {path}")
        return
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise EvaluationError(
            f"model {name!r}: {path} holds a LoRA adapter only; give the base model as `path` and this folder as "
            "`adapter`"
        )
    raise EvaluationError(f"model {name!r}: {path} has no config.json, so it is not a transformers model folder")


def write_json(model: BaseModel, path: Path) -> None:
    """Write a request or a response whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(model.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(path)
