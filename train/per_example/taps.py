"""Where a parameter's per-example gradient can be read off: its module's input x, output y and output gradient e.

One small class per kind of parameter. LoRA's A and B are linear maps in every family, fused projections and GPT-2's
transposed layers included; DoRA adds one magnitude per output; full-rank layers are an option and may be linear or
transposed. A trainable tensor of any other kind is refused by name rather than left out of the gradient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft.tuners.lora.layer import ParamWrapper
from transformers.pytorch_utils import Conv1D

from train.models import trainable
from train.names import nearest
from train.settings import Layers

_PART_OF_ADAPTER = re.compile(r"\.lora_(A|B|magnitude_vector)\.[^.]+$")


class UnsupportedParameterError(ValueError):
    """A trainable tensor whose per-example gradient cannot be formed, or a layer that the model does not have."""


class Tap(Protocol):
    @property
    def module(self) -> torch.nn.Module:
        """What is hooked."""
        ...

    @property
    def parameter(self) -> torch.Tensor:
        """Whose gradient it is."""
        ...

    @property
    def needs_output(self) -> bool:
        """Whether `block` reads y."""
        ...

    def block(self, x: torch.Tensor, y: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
        """(B, *parameter.shape) float32 gradients from x (B, T, in), y and e (B, T, out)."""
        ...


@dataclass(frozen=True)
class LinearWeight:
    """y = x W^T: the sum over positions of e_t x_t^T."""

    module: torch.nn.Module
    parameter: torch.Tensor
    needs_output: bool = False

    def block(self, x: torch.Tensor, y: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
        return torch.bmm(e.float().transpose(1, 2), x.float())


@dataclass(frozen=True)
class TransposedWeight:
    """y = x W (GPT-2's Conv1D): the sum over positions of x_t e_t^T."""

    module: torch.nn.Module
    parameter: torch.Tensor
    needs_output: bool = False

    def block(self, x: torch.Tensor, y: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x.float().transpose(1, 2), e.float())


@dataclass(frozen=True)
class DoraMagnitude:
    """y - bias = magnitude / norm * (base + update) with the norm held constant (DoRA, arXiv 2402.09353, section 4.3),
    so the gradient is the sum over positions of e_t (y_t - bias) / magnitude."""

    module: torch.nn.Module
    parameter: torch.Tensor
    bias: torch.Tensor | None
    needs_output: bool = True

    def block(self, x: torch.Tensor, y: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
        assert y is not None
        unbiased = y.float() if self.bias is None else y.float() - self.bias.float()
        return torch.einsum("bto,bto->bo", e.float(), unbiased) / self.parameter.detach().float()


def find_taps(
    model: Any, *, layers: Layers = "all", full_rank: Iterable[str] = (), adapter: bool = True
) -> dict[str, Tap]:
    """Parameter name -> tap, in the model's order.

    layers: `top_half` keeps the upper half of the decoder layers only, and the backward pass then ends there;
    full_rank: endings of module names (`down_proj`, `lm_head`) whose base weight is covered too; adapter: cover the
    trainable parameters. Raises `UnsupportedParameterError` naming the tensor and the remedy.
    """
    modules = dict(model.named_modules())
    taps: dict[str, Tap] = {}
    if adapter:
        for name, parameter in trainable(model).items():
            taps[name] = _adapter_tap(name, parameter, modules)
    for ending in full_rank:
        taps |= _full_rank_taps(ending, modules)
    if not taps:
        raise UnsupportedParameterError("the model has no trainable parameter; attach or load an adapter first")
    if layers == "top_half":
        taps = {name: tap for name, tap in taps.items() if _in_top_half(name, int(model.config.num_hidden_layers))}
        if not taps:
            raise UnsupportedParameterError("no adapted layer is in the top half; set layers to `all`")
    return taps


def _adapter_tap(name: str, parameter: torch.nn.Parameter, modules: dict[str, torch.nn.Module]) -> Tap:
    owner, _, attribute = name.rpartition(".")
    module = modules[owner]
    layer: Any = modules[_PART_OF_ADAPTER.sub("", owner)]
    if isinstance(layer, ParamWrapper) or ".experts." in name:
        raise UnsupportedParameterError(
            f"{name} adapts a router's or routed experts' weights, where tokens of all examples are mixed: its "
            "per-example gradient is not covered. Leave it out of lora.targets: name the attention maps (and shared "
            "experts) instead of all-linear"
        )
    if attribute == "weight" and isinstance(module, torch.nn.Linear):
        return LinearWeight(module, parameter)
    if attribute == "weight" and ".lora_magnitude_vector." in owner:
        if not bool(parameter.all()):
            raise UnsupportedParameterError(
                f"{name} has zeros (outputs whose base weights are all zero, such as a padding token's), where DoRA's "
                "direction is not defined. Leave this map out of lora.targets, or set lora.dora to false"
            )
        return DoraMagnitude(layer, parameter, getattr(layer.get_base_layer(), "bias", None))
    raise UnsupportedParameterError(
        f"{name} is trainable but its per-example gradient is not covered: adapters on linear maps are (LoRA, rsLoRA, "
        "DoRA; bias none). Change lora.targets"
    )


def _full_rank_taps(ending: str, modules: dict[str, torch.nn.Module]) -> dict[str, Tap]:
    found: dict[str, Tap] = {}
    maps = {n: m for n, m in modules.items() if isinstance(m, torch.nn.Linear | Conv1D) and ".lora_" not in n}
    for name, module in maps.items():
        if not f".{name.removesuffix('.base_layer')}".endswith(f".{ending}"):
            continue
        _refuse_shared_weight(name, module, modules)
        kind = LinearWeight if isinstance(module, torch.nn.Linear) else TransposedWeight
        found[f"{name}.weight"] = kind(module, module.weight)
    if not found:
        known = {name.removesuffix(".base_layer").rpartition(".")[2] for name in maps}
        raise UnsupportedParameterError(
            f"full_rank: no linear map of the model is named {ending!r}{nearest(ending, known)}; "
            f"it has {', '.join(sorted(known))}"
        )
    return found


def _refuse_shared_weight(name: str, module: torch.nn.Module, modules: dict[str, torch.nn.Module]) -> None:
    """The map's input and output show only this map's share of a tied weight's gradient."""
    for other, owner in modules.items():
        if owner is not module and any(weight is module.weight for weight in owner.parameters(recurse=False)):
            raise UnsupportedParameterError(
                f"full_rank: {name} and {other} share one weight (tied embeddings), and the share of {other} in its "
                "gradient is not covered. Leave it out of full_rank, or use a model with untied embeddings"
            )


def _in_top_half(name: str, layer_count: int) -> bool:
    """Parameters outside numbered layers (an adapted head) lie above all of them."""
    index = re.search(r"\.(\d+)\.", name)
    return index is None or 2 * int(index.group(1)) >= layer_count
