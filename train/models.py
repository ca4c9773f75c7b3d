"""Load a base model and its tokenizer, attach a LoRA, merge it: the only file that knows how models come from disk or
a hub.

Safetensors only and no remote code. An adapter's parameters are known by the names of `model.named_parameters()`,
everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from train.settings import LoraSettings

ADAPTER_FILE = "adapter_model.safetensors"


class ModelError(ValueError):
    """A model, tokenizer or adapter that cannot be loaded or does not fit."""


def _load(kind: Any, path: str, **kwargs: Any) -> Any:
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = "folder" if Path(path).is_dir() else "model"
        raise ModelError(
            f"cannot load the {what} {path!r}: {first_line} "
            "Give a folder with config.json, model.safetensors and tokenizer.json, or a hub id that can be reached."
        ) from error


def load_tokenizer(path: str) -> Any:
    tokenizer = _load(AutoTokenizer, path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(path: str, dtype: torch.dtype = torch.float32, device: str | None = None) -> Any:
    """The causal language model at `path` in `dtype`, on `device`; None: this process's GPU where there is one, else
    the CPU."""
    model = _load(AutoModelForCausalLM, path, dtype=dtype, use_safetensors=True)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def attach_lora(model: Any, settings: LoraSettings, seed: int) -> PeftModel:
    """Freeze `model` and add a fresh adapter (A random from `seed`, B zero)."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft takes floats too
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"lora.targets {settings.targets} name no linear map of this model: {error} "
            "Use all-linear, or the names it has."
        ) from error


def load_adapter(model: Any, path: Path) -> PeftModel:
    """`model` with the adapter saved at `path`, its parameters trainable and float32."""
    if not (path / ADAPTER_FILE).exists():
        raise ModelError(f"no {ADAPTER_FILE} in {path}; was the training run finished?")
    return PeftModel.from_pretrained(model, str(path), is_trainable=True, autocast_adapter_dtype=True)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_merged(model: PeftModel, tokenizer: Any, folder: Path) -> None:
    """Write base + adapter as one plain model (evaluators that cannot take adapters need it). The adapter is merged in
    place."""
    merged = model.merge_and_unload()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
