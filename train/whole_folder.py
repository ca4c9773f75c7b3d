"""Folders that appear whole or not at all.

A library that is killed in the middle of a save leaves files under names of its own (safetensors writes to `.tmp...`
first), which whoever saves there again does not know to remove.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` at the end. For one writer at a time; what a
    killed one left is removed by the next."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
