"""One batched forward and backward pass that shows every adapter parameter's per-example gradient.

Hooks keep each adapted map's input x (B, T, in) and, on the way back, the gradient e (B, T, out) of its output; the
example's gradient is a sum over its own positions (`taps`). The loss that is propagated is the *sum* of the
per-example mean losses, so e already belongs to one example each. Each block is handed to a consumer and dropped,
layer by layer: no (batch x parameters) matrix ever exists. The weights themselves do not require a gradient meanwhile,
so no weight gradient is computed only to be thrown away, and logits are formed at labelled positions only: the cost is
a forward and an activation-gradient pass.

Padding contributes exactly nothing: with causal attention and right padding no loss depends on a padded position, so e
is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train import forward
from train.encoding import Encoded
from train.per_example.taps import Tap, UnsupportedParameterError
from train.settings import Precision

Consumer = Callable[[str, torch.Tensor], None]
Capture = Callable[[str, Tap, torch.Tensor, torch.Tensor | None, torch.Tensor], None]
_LEAVE_OUT = "Leave it out of lora.targets (or of full_rank)"


@contextmanager
def capture_hooks(taps: Mapping[str, Tap], capture: Capture, shape: tuple[int, int]) -> Iterator[None]:
    """While active, one backward pass calls `capture(name, tap, x, y, e)` once per tap, each (B, T, features).

    shape: (B, T) of the padded batch. Raises `UnsupportedParameterError` for a map that mixes examples, or that the
    pass reaches twice or not at all: its gradient would be wrong or missing.
    """
    seen: set[str] = set()

    def forward_hook(name: str, tap: Tap) -> Callable:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach()
            y = output.detach() if tap.needs_output else None

            def on_gradient(e: torch.Tensor) -> None:
                if name in seen:
                    raise UnsupportedParameterError(
                        f"{name} is used twice in one forward pass (a shared layer?); its per-example gradient would "
                        f"come in pieces. {_LEAVE_OUT}"
                    )
                seen.add(name)
                parts = [None if part is None else _by_example(name, part, shape) for part in (x, y, e)]
                capture(name, tap, *parts)  # type: ignore[arg-type]  # only y may be None

            if output.requires_grad:
                output.register_hook(on_gradient)

        return hook

    handles = [tap.module.register_forward_hook(forward_hook(name, tap)) for name, tap in taps.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    unseen = [name for name in taps if name not in seen]
    if unseen:
        raise UnsupportedParameterError(
            f"the loss did not reach {unseen[0]} ({len(unseen)} of {len(taps)} adapted maps): the model does not call "
            f"it as a module, or did not use it for this batch. {_LEAVE_OUT}"
        )


def _by_example(name: str, tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(B, T, features), also where a model flattens the batch first (routers and shared experts do)."""
    if tensor.shape[:-1] == shape:
        return tensor
    if tensor.shape[:-1] == (shape[0] * shape[1],):
        return tensor.unflatten(0, shape)
    raise UnsupportedParameterError(
        f"a batch of {shape[0]} examples of {shape[1]} tokens reaches {name} as {tuple(tensor.shape)}, not as (batch, "
        f"tokens, features): examples are mixed there (routed experts?). {_LEAVE_OUT}"
    )


@contextmanager
def graph_from_adapters(model: Any, taps: Mapping[str, Tap]) -> Iterator[None]:
    """Evaluation mode and frozen weights; the graph starts at the first tapped map's output.

    So the backward pass forms activation gradients only, and none below the first tapped layer.
    """

    def start(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)

    handles = [tap.module.register_forward_hook(start) for tap in taps.values()]
    try:
        with forward.frozen_evaluation(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def batch_losses(
    model: Any, rows: Sequence[Encoded], pad_id: int, taps: Mapping[str, Tap], precision: Precision = "float32"
) -> torch.Tensor:
    """(B,) losses of one padded batch, with a graph."""
    head = model.get_output_embeddings()
    inside = set() if head is None else set(head.modules())
    if any(tap.module in inside for tap in taps.values()):
        head = None  # a tapped head must see whole examples
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return forward.batch_losses(model, rows, pad_id, model.device, head)


def backward_per_example(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    taps: Mapping[str, Tap],
    consume: Consumer,
    precision: Precision = "float32",
) -> torch.Tensor:
    """One forward and backward pass over `rows`; `consume(name, block)` gets each tapped parameter's (B, *shape)
    float32 gradients.

    Returns the (B,) losses. Blocks arrive in the order of the backward pass, rows in the caller's order. precision:
    `bfloat16` runs the model under autocast; blocks are summed in float32 either way.
    """

    def capture(name: str, tap: Tap, x: torch.Tensor, y: torch.Tensor | None, e: torch.Tensor) -> None:
        consume(name, tap.block(x, y, e))

    return backward_captures(model, rows, pad_id, taps, capture, precision)


def backward_captures(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    taps: Mapping[str, Tap],
    capture: Capture,
    precision: Precision = "float32",
) -> torch.Tensor:
    """`backward_per_example` for consumers that want x and e themselves, such as Kronecker factors."""
    shape = (len(rows), max(len(row.input_ids) for row in rows))
    with torch.enable_grad(), graph_from_adapters(model, taps), capture_hooks(taps, capture, shape):
        losses = batch_losses(model, rows, pad_id, taps, precision)
        with torch.autocast(model.device.type, enabled=False):  # a caller's autocast would round the blocks
            losses.sum().backward()
    return losses.detach()
