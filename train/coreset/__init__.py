"""Which examples of a pool are trained: kept small sources, quotas, and medoids of zeroth-order features (CoLM)."""

from train.coreset.composition import CoresetError, kept_examples, quotas, small_sources
from train.coreset.facility import facility_location
from train.coreset.moments import adam_normalised, masked, updated_history
from train.coreset.selector import Core, CoresetSelector, Plan

__all__ = [
    "Core",
    "CoresetError",
    "CoresetSelector",
    "Plan",
    "adam_normalised",
    "facility_location",
    "kept_examples",
    "masked",
    "quotas",
    "small_sources",
    "updated_history",
]
