"""Filters that take rows out of the pool, each naming what it removed, why, and what the row matched."""

from curate.cleaning.contract import (
    CHANGED_SCHEMA,
    REMOVED_SCHEMA,
    Changed,
    Cleaned,
    Editor,
    Filter,
    Reference,
    Removed,
    clean,
    read_changed,
    read_removed,
    write_changed,
    write_removed,
)
from curate.cleaning.exact_duplicates import ExactDuplicates, TargetOverlap
from curate.cleaning.leakage import NearMatch, WordRunOverlap
from curate.cleaning.near_duplicates import NearDuplicates

__all__ = [
    "CHANGED_SCHEMA",
    "REMOVED_SCHEMA",
    "Changed",
    "Cleaned",
    "Editor",
    "ExactDuplicates",
    "Filter",
    "NearDuplicates",
    "NearMatch",
    "Reference",
    "Removed",
    "TargetOverlap",
    "WordRunOverlap",
    "clean",
    "read_changed",
    "read_removed",
    "write_changed",
    "write_removed",
]
