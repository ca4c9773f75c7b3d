"""Run a batch once up to the last layer with an adapted value projection, then run only the rest again.

Features of the coreset differ in that layer alone, so everything below it is computed once without a graph. A replay
calls the model's own forward with the lower layers answering from memory: masks, positions, norms, soft caps and the
head are the family's own code, nothing is re-implemented. The replayed part runs in float32, since a zeroth-order
difference of 1e-3 drowns in half precision. Evaluation mode; parameters, gradients and the global random state are
left as they were. Cost: one forward pass below the layer, and per replay the layer, the norm and the labelled logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from train.encoding import Encoded, token_budget_batches
from train.forward import batch_losses, frozen_evaluation
from train.settings import Precision

TOKENS_PER_BATCH = 8192
_VALUE_B = re.compile(r"^(?P<layers>.*)\.(?P<index>\d+)\.[^.]+\.v_proj\.lora_B\.default$")


class NoValueProjectionError(ValueError):
    """The model has no separate, adapted value projection to take features from."""


@dataclass(frozen=True)
class ValueMap:
    """The LoRA B map of the last adapted `v_proj`. name: of its weight; layers: the decoder's; index: its layer."""

    name: str
    module: torch.nn.Linear
    layers: Sequence[torch.nn.Module]
    index: int


def find_value_map(model: torch.nn.Module) -> ValueMap:
    """Found by module structure. Raises `NoValueProjectionError` where projections are fused or not adapted."""
    found = {}
    for name, module in model.named_modules():
        match = _VALUE_B.match(name)
        if match and isinstance(module, torch.nn.Linear):
            found[int(match["index"])] = (name, match["layers"], module)
    if not found:
        raise NoValueProjectionError(
            "coreset features last_layer and spsa need a LoRA on `v_proj`; this model has none (fused projections, or "
            "lora.targets leaves it out). Add v_proj to lora.targets or use coreset.feature: random."
        )
    index = max(found)
    name, layers, module = found[index]
    return ValueMap(f"{name}.weight", module, list(model.get_submodule(layers)), index)  # type: ignore[call-overload]


class _Reached(Exception):  # noqa: N818  # a signal, not an error
    """The prefix has arrived at the layer to replay."""


class SelectionPass:
    """The passes over candidate rows. model: the adapted model, not wrapped; precision: of the prefix."""

    def __init__(
        self, model: Any, pad_id: int, precision: Precision = "float32", tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        self.model, self.pad_id, self.precision, self.tokens_per_batch = model, pad_id, precision, tokens_per_batch
        self.value_map = find_value_map(model)
        # the base model, whose layers hold the adapter: what wraps it may autocast
        self.base = model.get_base_model()

    def batches(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], Callable[[], torch.Tensor]]]:
        """(positions, replay) of each batch; `replay()` is the (b,) float32 losses of these rows, from the layer on."""
        lower = self.value_map.layers[: self.value_map.index]
        with frozen_evaluation(self.model):
            for positions in token_budget_batches([len(row.input_ids) for row in rows], self.tokens_per_batch):
                batch = [rows[i] for i in positions]
                with _answering(lower, self._prefix(batch) if lower else None):
                    yield positions, partial(self._losses, batch, "float32")

    def _losses(self, rows: Sequence[Encoded], precision: Precision) -> torch.Tensor:
        device = self.model.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            return batch_losses(self.base, rows, self.pad_id, device, self.base.get_output_embeddings())

    def _prefix(self, rows: Sequence[Encoded]) -> Any:
        """What the layer below hands on, in float32 and in whatever container the family uses."""
        outputs: list[Any] = []

        def keep(_module: torch.nn.Module, _inputs: tuple, output: Any) -> None:
            outputs.append(output)

        def stop(_module: torch.nn.Module, _inputs: tuple) -> None:
            raise _Reached

        below = self.value_map.layers[self.value_map.index - 1]
        handles = [
            below.register_forward_hook(keep),
            self.value_map.layers[self.value_map.index].register_forward_pre_hook(stop),
        ]
        try:
            with torch.no_grad():
                self._losses(rows, self.precision)
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return _float32(outputs[-1])


def _float32(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    return type(output)(_float32(part) for part in output) if isinstance(output, tuple | list) else output


@contextmanager
def _answering(layers: Sequence[torch.nn.Module], output: Any) -> Iterator[None]:
    """While active, these layers return `output` without computing anything."""
    own = [layer.__dict__.get("forward") for layer in layers]  # wrappers put theirs on the instance
    for layer in layers:
        layer.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before
