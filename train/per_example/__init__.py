"""Per-example gradients of a causal language model's adapter, from batched backward passes."""

from train.per_example.batches import BatchSink, flat_gradients, iterate_gradients
from train.per_example.passes import Consumer, backward_per_example, graph_from_adapters
from train.per_example.taps import Tap, UnsupportedParameterError, find_taps

__all__ = [
    "BatchSink",
    "Consumer",
    "Tap",
    "UnsupportedParameterError",
    "backward_per_example",
    "find_taps",
    "flat_gradients",
    "graph_from_adapters",
    "iterate_gradients",
]
