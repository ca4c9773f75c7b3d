"""Files beside the shards (the targets' features, the curvature) that appear whole and are believed only while their
bytes are those that were written, as the shards are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from curate.influence.features.shard import PARTIAL

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path`, with its checksum beside it; a process killed in between leaves no sealed
    file, only a folder that the next day's reader of the store removes."""
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as place:
        partial = Path(place) / path.name
        yield partial
        checksum = _checksum(partial)
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
