"""LoRA adapters under an engine: whether one fits its base model, and whether vLLM can take it as it is.

vLLM adds an adapter to the loaded base model per request, so one engine serves the base and any number of adapters. On
its CPU build prompt log-probabilities crash under an adapter, and some adapters (DoRA, whole modules, odd ranks) it
does not support; then the adapter is merged into a copy of the weights. Cost: merging reads and writes the base model
once; the check reads shapes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.errors import EvaluationError
from eval.request import ModelToEvaluate

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
WEIGHTS = "adapter_model.safetensors"


def read_config(adapter: str) -> dict[str, Any]:
    """The adapter's own configuration. Raises `EvaluationError` when it cannot be read."""
    path = Path(adapter) / "adapter_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def check_fit(model: ModelToEvaluate, trust_remote_code: bool = False) -> str | None:
    """Refuse an adapter of another base model: a map that the base does not have, or one of another shape.

    Returns a note where the shapes fit but the adapter names another base. Raises `EvaluationError`.
    """
    assert model.adapter is not None
    shapes = _map_shapes(model.path, trust_remote_code)
    for name, found in _weight_shapes(Path(model.adapter), model.name).items():
        role = next((role for role in ("lora_A", "lora_B") if f".{role}." in name), None)
        if role is None:
            continue
        of = name.removeprefix("base_model.model.").split(f".{role}.")[0]
        while of.endswith(".base_layer"):  # peft nests the adapters of several parameters of one module
            of = of.removesuffix(".base_layer")
        # A reads what the map reads, B writes what it writes
        side, at = (1, 1) if role == "lora_A" else (0, 0)
        shape = shapes.get(of)
        if of not in shapes or (shape is not None and shape[side] != found[at]):
            has = f"has {list(shape)} there" if shape else "has no such map"
            raise EvaluationError(
                f"model {model.name!r}: the adapter {model.adapter} was trained on another base model: its "
                f"{of}.{role} is {found}, and {model.path} {has}; evaluate it on its own base"
            )
    named = read_config(model.adapter).get("base_model_name_or_path")
    if named and Path(named).name != Path(model.path).name:
        return f"{model.name}: the adapter names {named} as its base and is run on {model.path}; their shapes agree"
    return None


def _weight_shapes(adapter: Path, model: str) -> dict[str, list[int]]:
    """The shape of every weight of an adapter by its name; no weights are read."""
    from safetensors import SafetensorError, safe_open

    path = adapter / WEIGHTS
    if not path.is_file():
        raise EvaluationError(
            f"model {model!r}: {adapter} has no {WEIGHTS}; save the adapter as one safetensors file "
            "(peft's `save_pretrained` does)"
        )
    try:
        with safe_open(path, framework="np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise EvaluationError(f"model {model!r}: {path} cannot be read: {error}; copy or save it again") from error


def _map_shapes(path: str, trust_remote_code: bool) -> dict[str, tuple[int, int] | None]:
    """(out, in) of every linear map of the model by its name, None for its other modules; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"the configuration of {path} cannot be read: {first_line}") from error
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    shapes: dict[str, tuple[int, int] | None] = {}
    for name, module in skeleton.named_modules():
        shapes[name] = None
        if isinstance(module, torch.nn.Linear):
            shapes[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):  # GPT-2's, with its weight the other way round
            shapes[name] = (module.nf, module.nx)
    return shapes


def rank(adapter: str) -> int:
    """The largest rank of the adapter, patterns included."""
    config = read_config(adapter)
    return max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])


def obstacle(adapter: str) -> str | None:
    """Why vLLM cannot run this adapter as a LoRA request; None when it can."""
    config = read_config(adapter)
    if config.get("use_dora"):
        return "it is a DoRA adapter"
    if config.get("modules_to_save"):
        return "it trains whole modules beside its low-rank maps"
    if rank(adapter) > VLLM_RANKS[-1]:
        return f"its rank {rank(adapter)} is above {VLLM_RANKS[-1]}"
    return None


def vllm_rank(adapters: list[str]) -> int:
    """The smallest rank that vLLM knows and that holds all of these."""
    needed = max(map(rank, adapters))
    return next(r for r in VLLM_RANKS if r >= needed)


@contextmanager
def merged(model: ModelToEvaluate) -> Iterator[str]:
    """A folder of whole weights: of the model itself, its `merged`, or a merge made for as long as it is needed."""
    if model.adapter is None or model.merged is not None:
        yield model.merged or model.path
        return
    from train.models import load_adapter, load_base, load_tokenizer, save_merged

    with TemporaryDirectory(prefix="equipoise-merged-") as folder:
        tuned = load_adapter(load_base(model.path), Path(model.adapter))
        save_merged(tuned, load_tokenizer(model.path), Path(folder))
        del tuned
        yield folder
