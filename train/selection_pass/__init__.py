"""What the coreset selector is told about each example: a forward pass to the last adapted layer, and features from
what comes after it."""

from train.selection_pass.last_layer import last_layer_features
from train.selection_pass.prefix import NoValueProjectionError, SelectionPass, ValueMap, find_value_map
from train.selection_pass.spsa import directions, spsa_features

__all__ = [
    "NoValueProjectionError",
    "SelectionPass",
    "ValueMap",
    "directions",
    "find_value_map",
    "last_layer_features",
    "spsa_features",
]
