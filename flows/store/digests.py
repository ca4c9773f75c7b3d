"""Hashes of files, folders, sources and values: what stage keys are made of.

SHA-256 runs at about 1 GB/s on one core; files are hashed side by side, so that a store of many gigabytes is checked at
the speed of its disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.store.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]
SOURCE_SUFFIXES = {".py", ".yaml", ".html", ".css", ".js"}  # of our code and of the data that lies among it
THREADS = min(8, os.cpu_count() or 1)
_seen: dict[tuple[Any, ...], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes as they are now, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(paths: Iterable[Path]) -> list[str]:
    """`file_digest` of each, in order, several at a time (hashing lets other threads run)."""
    files = list(paths)
    if len(files) < 2:
        return [file_digest(path) for path in files]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(file_digest, files))


def path_digest(path: Path) -> str:
    """Content hash of a file, or of all files of a folder with their names.

    For inputs from outside: a file that this process has read is read again only when its inode, size or times have
    changed, since a run asks for the same model at every stage.
    """
    if path.is_file():
        return _input_digest(path)
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(_input_digest, files)
    return value_digest([(str(p.relative_to(path)), digest) for p, digest in zip(files, digests, strict=True)])


def _input_digest(path: Path) -> str:
    found = path.stat()
    # the time of change cannot be set back, as that of modification can
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if state not in _seen:
        _seen[state] = file_digest(path)
    return _seen[state]


def source_digest(rooms: Sequence[str]) -> str:
    """Hash of the named files and of the sources in the named folders (code and the templates, styles and task sets
    that lie among it), relative to the repository or installation root."""
    files: list[Path] = []
    for room in rooms:
        path = ROOT / room
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SOURCE_SUFFIXES)
        if not inside:
            raise StoreError(f"no source file in {room!r}, of {rooms}")
        files += inside
    return value_digest([(str(p.relative_to(ROOT)), file_digest(p)) for p in files])


def value_digest(value: Any) -> str:
    """20 hexadecimal digits for a plain value, whatever the order of its mappings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]
