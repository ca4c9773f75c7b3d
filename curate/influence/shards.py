"""Scores of a long pool, shard by shard, so that a killed run goes on at the first missing shard.

A shard is one .npy file, written under a temporary name and renamed; what was excluded travels beside it. The shards
of one checkpoint are joined at the end. The model is loaded only if a shard is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from curate.influence.exact import Cosines
from train.encoding import Encoded

Scorer = Callable[[Sequence[Encoded]], Cosines]


def sharded_cosines(
    folder: Path,
    name: str,
    rows: Sequence[Encoded],
    shard_rows: int,
    load: Callable[[], Scorer],
    on_rows_found: Callable[[int], None] = lambda count: None,
) -> Cosines:
    """Scores of all `rows`, (N, M), kept as `<name>.npy` with `<name>.json` in `folder`.

    shard_rows: rows per shard; load: makes the scorer, called once and only when a shard is missing; on_rows_found:
    told how many rows an earlier attempt had already done.
    """
    whole = folder / f"{name}.npy"
    if whole.exists():
        on_rows_found(len(rows))
        return _read(whole)
    scorer: Scorer | None = None
    shards = []
    for start in range(0, len(rows), shard_rows):
        part = rows[start : start + shard_rows]
        path = folder / f"{name}-{start:09d}.npy"
        if path.exists() and len(np.load(path, mmap_mode="r")) == len(part):  # else left by another shard size
            on_rows_found(len(part))
        else:
            scorer = scorer or load()
            _write(path, scorer(part))
        shards.append(path)
    parts = [_read(path) for path in shards]
    excluded = {key: reason for part in parts for key, reason in part.excluded.items()}
    share = sum(len(part.values) * part.small_v_share for part in parts) / max(1, len(rows))
    joined = Cosines(np.concatenate([part.values for part in parts]), excluded, share)
    _write(whole, joined)
    for path in folder.glob(f"{name}-*.npy"):
        path.unlink()
        path.with_suffix(".json").unlink()
    return joined


def _write(path: Path, scores: Cosines) -> None:
    """The note first, the array last: an array that is there has its note."""
    note = {"excluded": scores.excluded, "small_v_share": scores.small_v_share}
    path.with_suffix(".json").write_text(json.dumps(note, indent=1))
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.save(file, scores.values)
    temporary.rename(path)


def _read(path: Path) -> Cosines:
    note = json.loads(path.with_suffix(".json").read_text())
    return Cosines(np.load(path), note["excluded"], note["small_v_share"])
