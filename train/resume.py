"""What a killed run needs to go on exactly, beside what `transformers.Trainer` already saves.

A checkpoint folder counts only when it holds this state, which is written last and renamed into place, and when all its
files are as their checksums say: a kill in the middle of a save, or a loss of power after it, leaves a folder that is
passed over. The state is JSON and arrays in safetensors; nothing is unpickled
here. A resume under another job, world size, source list or feature is refused, by name, since it could not give the
same adapter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from train.moments import checkpoint_folders

STATE_FILE = "balance.json"
ARRAYS_FILE = "balance.safetensors"
CHECKSUMS_FILE = "checksums.json"
FORMAT = 1
logger = logging.getLogger(__name__)


class ResumeError(ValueError):
    """A checkpoint that this run cannot go on from."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete and undamaged checkpoint under `folder`, or None."""
    return next((path for path in reversed(checkpoint_folders(folder)) if is_intact(path)), None)


def drop_incomplete(folder: Path) -> None:
    """Remove what a kill in the middle of a save left behind, and what is damaged."""
    for path in checkpoint_folders(folder):
        if not is_intact(path):
            shutil.rmtree(path)


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint was finished and every file of it is as it was written; damage is reported."""
    if not (checkpoint / STATE_FILE).exists():
        return False
    try:
        expected = json.loads((checkpoint / CHECKSUMS_FILE).read_text())
        damaged = [name for name, digest in expected.items() if _digest(checkpoint / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        damaged = [str(error)]
    if damaged:
        logger.warning("%s is damaged (%s) and passed over", checkpoint, damaged[0])
    return not damaged


def seal(checkpoint: Path, state: Path) -> None:
    """Write the checksums of all files, with those of `state`, which is to become `STATE_FILE`."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    own = {CHECKSUMS_FILE, STATE_FILE, state.name}
    digests = {path.relative_to(checkpoint).as_posix(): _digest(path) for path in files if path.name not in own}
    (checkpoint / CHECKSUMS_FILE).write_text(json.dumps({**digests, STATE_FILE: _digest(state)}, indent=1))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def discard(folder: Path) -> None:
    """Remove all checkpoints: first what makes them count, or a kill in between would leave one that lacks files."""
    for path in checkpoint_folders(folder):
        (path / STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def write_state(checkpoint: Path, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Complete a checkpoint. arrays: float64, kept to the last bit."""
    save_file(dict(arrays), checkpoint / ARRAYS_FILE)
    unfinished = checkpoint / f"{STATE_FILE}.partial"
    unfinished.write_text(json.dumps({"format": FORMAT, **state}))
    seal(checkpoint, unfinished)
    unfinished.rename(checkpoint / STATE_FILE)


def read_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """State and arrays of a complete checkpoint. Raises `ResumeError`."""
    path = checkpoint / STATE_FILE
    if not path.exists():
        raise ResumeError(
            f"{checkpoint} is no complete checkpoint of this trainer ({STATE_FILE} is missing); start afresh or name "
            "an older one"
        )
    try:
        state = json.loads(path.read_text())
        arrays = load_file(checkpoint / ARRAYS_FILE)
    except (OSError, ValueError) as error:
        raise ResumeError(f"{checkpoint} is damaged: {error}; remove it, the run goes on from an older one") from error
    if state.get("format") != FORMAT:
        raise ResumeError(f"{checkpoint} has format {state.get('format')!r}; this version reads {FORMAT}")
    return state, arrays


def refuse_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ResumeError` naming every entry that differs, with both values."""
    different = [
        f"{name}: {saved.get(name)!r} when saved, now {now.get(name)!r}"
        for name in sorted({*saved, *now})
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise ResumeError(
            "this run cannot go on from the checkpoint, since it was made with other settings ("
            + "; ".join(different)
            + "); restore them, or remove the checkpoints to start afresh"
        )
