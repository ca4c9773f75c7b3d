"""Load a base model and its tokenizer, attach a LoRA, merge it: the only file that knows how models come from disk or
a hub.

Safetensors only and no remote code. An adapter's parameters are known by the names of `model.named_parameters()`,
everywhere.
"""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.pytorch_utils import Conv1D

from train.names import nearest
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


def load_base(
    path: str, dtype: torch.dtype = torch.float32, device: str | None = None, quantization: str = "none"
) -> Any:
    """The causal language model at `path` in `dtype`, on `device`; None: this process's GPU where there is one, else
    the CPU. quantization: "4bit" keeps the linear maps in NF4 and computes in bfloat16 (QLoRA, arXiv 2305.14314)."""
    if quantization == "4bit":
        return _load_4bit(path)
    model = _load(AutoModelForCausalLM, path, dtype=dtype, use_safetensors=True)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_shape(path: str) -> Any:
    """The causal language model at `path` without its numbers: names and shapes, in no memory.

    Raises `ModelError` for weights that are missing or cut off, as far as their headers show.
    """
    config = _load(AutoConfig, path)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path!r} is no causal language model: {str(error).splitlines()[0]}") from error
    if Path(path).is_dir():
        _check_weights(Path(path))
    return model


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors file; save the model with safe_serialization")
    for file in files:
        try:
            with safe_open(file, framework="pt"):  # reads the header, and refuses a file that does not reach its end
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {error}; copy or download it again") from error


def load_encoder(path: str) -> Any:
    """The model at `path` without a head, in float32 and evaluation mode: what gives the hidden states of a text."""
    model = _load_whole(AutoModel, path, "pooler.")  # pooled otherwise, so a fresh pooler does no harm
    return model.get_encoder() if model.config.is_encoder_decoder else model


def load_classifier(path: str) -> Any:
    """The text classifier at `path`, in float32 and evaluation mode."""
    return _load_whole(AutoModelForSequenceClassification, path)


def _load_whole(kind: Any, path: str, unused: str = "") -> Any:
    """A model all of whose weights were saved; transformers would draw the others, the head above all, at random."""
    model, info = _load(kind, path, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    missing = sorted(name for name in info["missing_keys"] if not unused or unused not in f"{name}.")
    if missing:
        raise ModelError(f"{path!r} has no weights for {', '.join(missing[:3])}; is it a model for this purpose?")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _load_4bit(path: str) -> Any:
    missing = [] if torch.cuda.is_available() else ["a GPU"]
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes")
    if missing:
        raise ModelError(f"lora.quantization 4bit needs {' and '.join(missing)}; set lora.quantization: none")
    stored = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = _load(
        AutoModelForCausalLM,
        path,
        dtype=torch.bfloat16,
        use_safetensors=True,
        quantization_config=stored,
        device_map={"": torch.cuda.current_device()},
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def attach_lora(model: Any, settings: LoraSettings, seed: int) -> PeftModel:
    """Freeze `model` and add a fresh adapter, drawn from `seed`: A random and B zero, or as `settings.init` says.

    PiSSA and OLoRA take the adapter's start out of the base weights, in place (`adapter_start`); a base in bfloat16
    rounds what is left of them, so that even a fresh adapter is that far from the base.
    """
    check_targets(model, settings)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft takes floats too
        lora_dropout=settings.dropout,
        init_lora_weights=True if settings.init == "default" else settings.init,
        target_modules=settings.targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise _no_linear_map(settings, str(error).rstrip(".")) from error
    except AttributeError as error:  # fused experts have no one `weight` to factor
        if not settings.changes_base:
            raise
        raise _no_start(settings, "fused experts", str(error)) from error
    if settings.changes_base:
        _check_start(adapted, settings)
    saved: Any = adapted.peft_config["default"]
    if not isinstance(saved.target_modules, str):  # a set, which every process would write in an order of its own
        saved.target_modules = sorted(saved.target_modules)
    return adapted


def check_targets(model: Any, settings: LoraSettings) -> None:
    """Raise `ModelError` unless every target names something; peft is content when one of them does."""
    if settings.targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    for target in settings.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            last = {name.rpartition(".")[2] for name in names}
            raise _no_linear_map(settings, f"there is no {target!r}{nearest(target, last)}")


def _no_linear_map(settings: LoraSettings, reason: str) -> ModelError:
    return ModelError(
        f"lora.targets {settings.targets} name no linear map of this model: {reason}; "
        "use all-linear, or the names it has"
    )


def _check_start(model: PeftModel, settings: LoraSettings) -> None:
    """Every adapted map has a start that `save_adapter` can give back."""
    shared = _with_shared_weights(model)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if layer in shared:
            raise _no_start(settings, name, "its weights are those of another layer too")
        if "default" not in layer.lora_A:
            raise _no_start(settings, name, "it is an embedding")
        if settings.init == "olora" and isinstance(layer.get_base_layer(), Conv1D):
            raise _no_start(settings, name, "it keeps its weights transposed, which peft's OLoRA overlooks")
        down: Any = layer.lora_A["default"]
        rank = len(down.weight)  # peft takes as many directions as there are
        if rank < settings.r:
            raise _no_start(settings, name, f"lora.r {settings.r} is more than the {rank} of its smaller side")


def _no_start(settings: LoraSettings, name: str, reason: str) -> ModelError:
    return ModelError(
        f"lora.init {settings.init} cannot start on {name}: {reason}. "
        "Change lora.targets or lora.r, or use lora.init: default."
    )


def _with_shared_weights(model: PeftModel) -> list[LoraLayer]:
    """The adapted layers whose base weight is another layer's too, as that of a tied output head."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return [layer for layer in layers if uses[id(getattr(layer.get_base_layer(), "weight", None))] > 1]


def adapter_start(model: PeftModel, settings: LoraSettings) -> dict[str, torch.Tensor] | None:
    """What a fresh adapter took out of the base weights, by saved name; None where it took nothing."""
    if not settings.changes_base:
        return None
    return {name: value.detach().cpu().clone() for name, value in _adapter_state(model).items()}


def _adapter_state(model: PeftModel, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """By saved name, the adapter alone: peft would add the weights of an adapted output head."""
    return get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)


def put_together(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trained parameters of a model that FSDP keeps in pieces, by name, whole and on the CPU. The pieces come from
    all processes, so every one of them must call this."""
    whole = {}
    for name, parameter in trainable(model).items():
        piece = parameter.detach()
        whole[name] = (piece.full_tensor() if isinstance(piece, DTensor) else piece).cpu()
    return whole


def save_adapter(
    model: PeftModel,
    folder: Path,
    start: dict[str, torch.Tensor] | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter for the base model as it was loaded.

    start: `adapter_start` of a PiSSA or OLoRA adapter. It is subtracted, s (B A - B0 A0) = s [B, -B0] [A; A0], which
    makes a plain LoRA of twice the rank (arXiv 2404.02948, appendix), so that nobody needs the changed base.
    state: the trained parameters, where the model holds only pieces of them (`put_together`).
    """
    if start is None:
        model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        return
    (scaling,) = {module.scaling["default"] for module in model.modules() if isinstance(module, LoraLayer)}
    joined = {}
    for name, value in _adapter_state(model, state).items():
        a_side = "lora_A" in name
        parts = [value.detach().cpu(), start[name] if a_side else -start[name]]
        joined[name] = torch.cat(parts, dim=0 if a_side else 1).contiguous()
    config: Any = copy.copy(model.peft_config["default"])
    config.init_lora_weights, config.use_rslora, config.inference_mode = True, False, True
    config.r, config.lora_alpha = 2 * config.r, scaling * 2 * config.r
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(joined, folder / ADAPTER_FILE, metadata={"format": "pt"})


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
    place, into weights of its own where another layer shares them."""
    for layer in _with_shared_weights(model):
        base: Any = layer.get_base_layer()
        base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)
    merged = model.merge_and_unload()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
