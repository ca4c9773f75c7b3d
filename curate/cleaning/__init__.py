"""Filters that take rows out of the pool, each naming what it removed, why, and what the row matched."""

from curate.cleaning.contract import REMOVED_SCHEMA, Filter, Reference, Removed, clean, read_removed, write_removed
from curate.cleaning.exact_duplicates import ExactDuplicates, TargetOverlap
from curate.cleaning.leakage import WordRunOverlap

__all__ = [
    "REMOVED_SCHEMA",
    "ExactDuplicates",
    "Filter",
    "Reference",
    "Removed",
    "TargetOverlap",
    "WordRunOverlap",
    "clean",
    "read_removed",
    "write_removed",
]
