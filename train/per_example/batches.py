"""Per-example gradients of many rows: length-sorted batches under a token budget, results in the caller's order.

Memory is bounded by the token budget, not by the number of rows. A batch that does not fit is halved and tried again,
and later batches are kept to what did fit; each halving is logged and counted, never silent.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch

from train.encoding import Encoded, token_budget_batches
from train.per_example.passes import backward_per_example
from train.per_example.taps import Tap, find_taps
from train.settings import Precision

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class BatchSink(Protocol):
    """What becomes of one batch. Nothing may leave it before `finish`: a batch that ran out of memory is dropped and
    its rows come again in smaller ones."""

    def add(self, name: str, block: torch.Tensor) -> None: ...

    def finish(self) -> None: ...


def run_in_batches(
    lengths: Sequence[int],
    tokens_per_batch: int,
    work: Callable[[list[int]], Result],
    finish: Callable[[list[int], Result], None],
    on_halving: Callable[[], None] = lambda: None,
) -> None:
    """`finish(positions, work(positions))` for batches that together hold every position once.

    `work` must leave no trace outside its result, because it is tried again on halves when memory runs out. Raises
    `MemoryError` when a single row does not fit.
    """
    waiting = token_budget_batches(lengths, tokens_per_batch)[::-1]
    budget = tokens_per_batch
    while waiting:
        positions = waiting.pop()
        padded = len(positions) * max(lengths[i] for i in positions)
        if padded > budget and len(positions) > 1:
            waiting += _halves(positions)
            continue
        try:
            result = work(positions)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(positions) == 1:
                raise MemoryError(
                    f"out of memory with a single row of {padded} tokens: lower max_length, or take a device with "
                    "more memory"
                ) from error
            budget = padded // 2
        else:
            finish(positions, result)
            continue
        _free_memory()  # outside of the handler, whose traceback keeps the batch's tensors alive
        logger.warning("out of memory at %d padded tokens: going on with at most %d a batch", padded, budget)
        on_halving()
        waiting += _halves(positions)


def iterate_gradients(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    tokens_per_batch: int,
    taps: Mapping[str, Tap],
    start_batch: Callable[[list[int]], BatchSink],
    *,
    precision: Precision = "float32",
    on_batch: Callable[[int], None] = lambda rows_done: None,
    on_halving: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Run `backward_per_example` over length-sorted batches of at most `tokens_per_batch` padded tokens.

    `start_batch(positions)` returns the sink of the batch that holds the rows at `positions`. Returns (N,) losses in
    the caller's order.
    """
    losses = torch.empty(len(rows))

    def work(positions: list[int]) -> tuple[BatchSink, torch.Tensor]:
        sink = start_batch(positions)
        return sink, backward_per_example(model, [rows[i] for i in positions], pad_id, taps, sink.add, precision)

    def finish(positions: list[int], result: tuple[BatchSink, torch.Tensor]) -> None:
        sink, part = result
        sink.finish()
        losses[positions] = part.cpu()
        on_batch(len(positions))

    run_in_batches([len(row.input_ids) for row in rows], tokens_per_batch, work, finish, on_halving)
    return losses


def _halves(positions: list[int]) -> list[list[int]]:
    """Last half first, because the waiting batches are taken from the end."""
    middle = len(positions) // 2
    return [positions[middle:], positions[:middle]]


def _out_of_memory(error: BaseException) -> bool:
    """A CUDA device's own error, or what the CPU allocator says, which is a plain `RuntimeError`."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def flat_gradients(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    tokens_per_batch: int = 4096,
    taps: Mapping[str, Tap] | None = None,
    precision: Precision = "float32",
) -> dict[str, torch.Tensor]:
    """All gradients held at once: parameter name -> (N, size) float32. For targets and tests; the pool never fits."""
    taps = find_taps(model) if taps is None else taps
    gradients = {name: torch.zeros(len(rows), tap.parameter.numel()) for name, tap in taps.items()}
    iterate_gradients(
        model,
        rows,
        pad_id,
        tokens_per_batch,
        taps,
        lambda positions: _Rows(gradients, positions),
        precision=precision,
    )
    return gradients


class _Rows:
    """Writes each block to its rows; a batch that comes again overwrites what it left."""

    def __init__(self, gradients: dict[str, torch.Tensor], positions: list[int]) -> None:
        self.gradients, self.positions = gradients, positions

    def add(self, name: str, block: torch.Tensor) -> None:
        self.gradients[name][self.positions] = block.flatten(1).cpu()

    def finish(self) -> None:
        pass
