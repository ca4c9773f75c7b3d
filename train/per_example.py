"""Per-example gradients of LoRA parameters, from one batched backward pass.

Hooks on every adapted linear map keep its input x (B, T, in) and, on the way back, the gradient e (B, T, out) of its
output; the example's gradient of that map's weight is the sum over its own positions of e_t x_t^T (`spec: influence,
section 4`). The loss that is propagated is the *sum* of the per-example mean losses, so e already belongs to one
example each. Each block is handed to a consumer and dropped, layer by layer: no (batch x parameters) matrix ever
exists. The adapter's own weights do not require a gradient meanwhile, so no weight gradient is computed only to be
thrown away: the cost is a forward and an activation-gradient pass.

Padding contributes exactly nothing: with causal attention and right padding no loss depends on a padded position, so e
is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train.encoding import Encoded, collate, token_budget_batches
from train.losses import per_example_loss
from train.models import trainable

Consumer = Callable[[str, torch.Tensor], None]


class UnsupportedParameterError(ValueError):
    """A trainable tensor that is not the weight of a hooked linear map."""


def hooked_maps(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Adapter parameter name -> the linear map that owns it. Every trainable tensor must be such a weight."""
    modules = dict(model.named_modules())
    maps = {}
    for name in trainable(model):
        owner, _, attribute = name.rpartition(".")
        if attribute != "weight" or not isinstance(modules[owner], torch.nn.Linear):
            raise UnsupportedParameterError(
                f"{name} is trainable but is not the weight of a linear map; per-example gradients cover LoRA on "
                "linear maps (bias none, no DoRA): change lora.targets"
            )
        maps[name] = modules[owner]
    if not maps:
        raise UnsupportedParameterError("the model has no trainable parameter; attach or load an adapter first")
    return maps


@contextmanager
def block_hooks(maps: dict[str, torch.nn.Module], consume: Consumer) -> Iterator[None]:
    """While active, every backward pass calls `consume(name, block)` once per map, block (B, out, in) float32."""

    def forward_hook(name: str) -> Callable:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach()

            def on_gradient(e: torch.Tensor) -> None:
                consume(name, torch.bmm(e.float().transpose(1, 2), x.float()))

            output.register_hook(on_gradient)

        return hook

    handles = [module.register_forward_hook(forward_hook(name)) for name, module in maps.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def graph_from_adapters(model: Any, maps: dict[str, torch.nn.Module]) -> Iterator[None]:
    """Evaluation mode and frozen adapter weights; the graph starts at the first adapted map's output.

    So the backward pass forms activation gradients only, and none below the first adapted layer.
    """
    was_training = model.training
    parameters = [module.weight for module in maps.values()]

    def start(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)

    handles = [module.register_forward_hook(start) for module in maps.values()]
    model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(True)
        model.train(was_training)


def backward_per_example(model: Any, rows: Sequence[Encoded], pad_id: int, consume: Consumer) -> torch.Tensor:
    """One forward and backward pass over `rows`; `consume(name, block)` gets each adapter weight's (B, out, in)
    gradients.

    Returns the (B,) losses. Blocks arrive in the order of the backward pass, rows in the caller's order.
    """
    maps = hooked_maps(model)
    batch = {key: value.to(model.device) for key, value in collate(rows, pad_id).items()}
    labels = batch.pop("labels")
    with graph_from_adapters(model, maps), block_hooks(maps, consume):
        losses, _ = per_example_loss(model(**batch, use_cache=False).logits, labels)
        losses.sum().backward()
    return losses.detach()


def iterate_gradients(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    tokens_per_batch: int,
    start_batch: Callable[[list[int]], Consumer],
    on_batch: Callable[[int], None] = lambda rows_done: None,
) -> torch.Tensor:
    """Run `backward_per_example` over length-sorted batches of at most `tokens_per_batch` padded tokens.

    `start_batch(positions)` returns the consumer for the batch that holds the rows at `positions`. Returns (N,) losses
    in the caller's order.
    """
    losses = torch.empty(len(rows))
    for positions in token_budget_batches([len(row.input_ids) for row in rows], tokens_per_batch):
        part = backward_per_example(model, [rows[i] for i in positions], pad_id, start_batch(positions))
        losses[positions] = part.cpu()
        on_batch(len(positions))
    return losses


def flat_gradients(
    model: Any, rows: Sequence[Encoded], pad_id: int, tokens_per_batch: int = 4096
) -> dict[str, torch.Tensor]:
    """All gradients held at once: parameter name -> (N, size) float32. For targets and tests; the pool never fits."""
    gradients = {name: torch.zeros(len(rows), p.numel()) for name, p in trainable(model).items()}

    def start_batch(positions: list[int]) -> Consumer:
        def consume(name: str, block: torch.Tensor) -> None:
            gradients[name][positions] = block.flatten(1).cpu()

        return consume

    iterate_gradients(model, rows, pad_id, tokens_per_batch, start_batch)
    return gradients
