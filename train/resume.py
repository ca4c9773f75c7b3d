"""What a killed run needs to go on exactly, beside what `transformers.Trainer` already saves.

A checkpoint folder counts only when it holds this state: it is written last and renamed into place, so a kill in the
middle of a save leaves a folder that is ignored. The state is JSON and arrays in safetensors; nothing is unpickled
here. A resume under another job, world size, source list or feature is refused, by name, since it could not give the
same adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from train.moments import checkpoint_folders

STATE_FILE = "balance.json"
ARRAYS_FILE = "balance.safetensors"
FORMAT = 1


class ResumeError(ValueError):
    """A checkpoint that this run cannot go on from."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, or None."""
    complete = [path for path in checkpoint_folders(folder) if (path / STATE_FILE).exists()]
    return complete[-1] if complete else None


def drop_incomplete(folder: Path) -> None:
    """Remove what a kill in the middle of a save left behind."""
    for path in checkpoint_folders(folder):
        if not (path / STATE_FILE).exists():
            shutil.rmtree(path)


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
