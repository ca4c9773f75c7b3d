"""The error for a source that cannot be read, and the names that were probably meant.

A source is refused as a whole only where no row of it can be trusted to be what it was: it is not there, cannot be
opened, or its compression or its Parquet pages are damaged. Everything smaller costs a row (`curate.records.Rejected`).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from curate.records import DataError


class SourceError(DataError):
    """A source that cannot be read at all; names the path or id and the remedy."""


def missing_file(path: Path) -> SourceError:
    """The error for a path that is not there, with the nearest name that is."""
    nearest = nearest_path(path)
    hint = f"; did you mean {nearest}?" if nearest else ""
    return SourceError(f"{path}: no such file or folder{hint} (correct `path`, or give a hub id as owner/name)")


def nearest_path(path: Path) -> Path | None:
    """The existing path most like `path`, looked for at the first part of it that does not exist."""
    try:
        while not path.parent.exists() and path.parent != path:
            path = path.parent
        if not path.parent.is_dir():
            return None
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:  # a name too long for the disk, or a folder one may not look into
        return None
    close = difflib.get_close_matches(path.name, names, n=1)
    return path.parent / close[0] if close else None


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
