"""A model or data set is named by a local path or by a hub id; which of the two is decided here and nowhere else.

A local path must exist when settings are read, not after an hour; whether a hub has the id is known on its first use.
"""

from __future__ import annotations

from pathlib import Path

from curate.sources.hub import looks_like_hub_id
from train.settings import existing


def existing_or_hub(path: str) -> str:
    """The path, if it exists or is a hub id: `owner/name`, unless a folder `owner` is here. Raises `ValueError`."""
    if not looks_like_hub_id(path) or Path(path).parent.is_dir():
        existing(Path(path))
    return path
