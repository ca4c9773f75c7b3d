"""Readers that turn any mix of files, folders and hub datasets into examples, and account for every other row."""

from curate.sources.errors import SourceError
from curate.sources.opening import SUPPORTED
from curate.sources.pool import (
    TooManyRejectedError,
    pinned,
    read_into,
    read_pool,
    read_reported,
    read_source,
    read_targets,
)
from curate.sources.report import SourceReport, read_reports, write_reports
from curate.sources.shapes import SHAPES, to_messages
from curate.sources.spec import SourceSpec

__all__ = [
    "SHAPES",
    "SUPPORTED",
    "SourceError",
    "SourceReport",
    "SourceSpec",
    "TooManyRejectedError",
    "pinned",
    "read_into",
    "read_pool",
    "read_reported",
    "read_reports",
    "read_source",
    "read_targets",
    "to_messages",
    "write_reports",
]
