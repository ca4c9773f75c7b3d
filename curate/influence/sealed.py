"""Files beside the shards (the targets' features, the curvature) that appear whole and are believed only while their
bytes are those that were written, as the shards are."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def seal(partial: Path, path: Path) -> None:
    """Give a finished file its name, with its checksum beside it; a process killed in between leaves no sealed file."""
    checksum = partial.with_name(f"{partial.name}.sha256")
    checksum.write_text(_digest(partial))
    checksum.replace(_checksum(path))  # never written in place: runs keep links to the file that was there
    partial.replace(path)


def is_sealed(path: Path) -> bool:
    """Whether the file is there and unchanged; a changed one is reported and is to be made again."""
    if not path.exists():
        return False
    seal_file = _checksum(path)
    if seal_file.exists() and seal_file.read_text() == _digest(path):
        return True
    logger.warning("%s is damaged: it is computed again", path)
    return False


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
