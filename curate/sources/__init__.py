"""Readers that turn any mix of files, folders and hub datasets into examples, and account for every other row."""

from curate.sources.files import SUPPORTED, SourceError
from curate.sources.pool import TooManyRejectedError, read_pool, read_source, read_targets
from curate.sources.shapes import SHAPES, to_messages
from curate.sources.spec import SourceSpec

__all__ = [
    "SHAPES",
    "SUPPORTED",
    "SourceError",
    "SourceSpec",
    "TooManyRejectedError",
    "read_pool",
    "read_source",
    "read_targets",
    "to_messages",
]
