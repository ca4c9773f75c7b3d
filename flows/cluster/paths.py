"""Paths for a process in another working directory."""

from __future__ import annotations

from pathlib import Path


def everywhere(path: str) -> str:
    """An existing file or folder by its whole path; a hub id as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else path
