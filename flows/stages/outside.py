"""What a stage's key says of data that no stage made."""

from __future__ import annotations

from pathlib import Path

from curate.sources.opening import fingerprint, is_pattern, is_url
from flows.store import path_digest


def external_digest(path: str) -> str:
    """Hash of what a local path, a pattern or a URL holds; a hub id stands for itself."""
    if is_url(path) or is_pattern(path):
        return fingerprint(path)
    return path_digest(Path(path)) if Path(path).exists() else path
