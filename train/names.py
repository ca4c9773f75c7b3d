"""Suggest the name that was probably meant, in messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest of `known`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {match[0]!r}?" if match else ""
