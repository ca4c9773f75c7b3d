"""Suggest the name that was probably meant, in messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest of `known`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {match[0]!r}?" if match else ""


def nearest_path(path: Path) -> str:
    """`nearest` among the files beside `path`, or which folder is not there."""
    folder = path.parent
    return nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else f" ({folder} does not exist)"
