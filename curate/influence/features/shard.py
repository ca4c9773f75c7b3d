"""One shard of row values: a folder of three files that appears whole or not at all.

`values.npy` (n, w), `rows.npy` (key, norm, token count and scale of each row) and `shard.json` (exclusions, fidelity
and the checksums of the other two), all made durable in a hidden folder that is then renamed. The shard's name is the
hash of `shard.json`, so it vouches for every byte, processes that write different rows never meet, and processes that
write the same values write the same shard. A process killed at any moment leaves at most a hidden folder, which no
reader looks at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.influence.features.identity import SIDE_TYPE, FeatureIdentity
from curate.influence.features.values import Fidelity, decode, encode, measure

VALUES, SIDE, NOTE = "values.npy", "rows.npy", "shard.json"
PARTIAL = ".partial-"
NAME_LENGTH = 20


class DamagedShardError(ValueError):
    """A shard whose files are not what was written."""


@dataclass(frozen=True, eq=False)
class Shard:
    """path: its folder; side: (n,) `SIDE_TYPE`; excluded: key -> reason; empty_columns: NaN in every row; fidelity:
    None for float32; figures: the writer's own, such as a share."""

    path: Path
    side: np.ndarray
    excluded: dict[str, str]
    empty_columns: list[int]
    fidelity: Fidelity | None
    figures: dict[str, float]

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Values of the rows at these positions into `out`, (len(rows), w) float32; only their pages are read."""
        # opened anew each time: a memory map keeps its file open, and a store has more shards than a process may
        stored = np.load(self.path / VALUES, mmap_mode="r")
        run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        picked = stored[rows[0] : rows[-1] + 1] if run else stored[rows]
        decode(picked, self.side["scale"][rows], self.empty_columns, out)


def write_shard(
    folder: Path,
    identity: FeatureIdentity,
    side: np.ndarray,
    values: np.ndarray,
    excluded: Mapping[str, str],
    empty_columns: Sequence[int],
    figures: Mapping[str, float],
) -> Shard:
    """Checked values (n, w) float32 as a new shard of `folder`; `side` lacks only its scales."""
    stored, scales = encode(values, identity.dtype)
    side = side.copy()
    side["scale"] = scales
    fidelity = None
    if identity.dtype != "float32":
        restored = np.empty_like(values)
        decode(stored, scales, empty_columns, restored)
        fidelity = measure(values, restored)
    partial = folder / f"{PARTIAL}{uuid.uuid4().hex}"
    partial.mkdir()
    files = {}
    for name, array in ((VALUES, stored), (SIDE, side)):
        with (partial / name).open("xb") as file:
            np.save(file, array)
        files[name] = _digest(partial / name)
    note = {
        "rows": len(side),
        "excluded": dict(excluded),
        "empty_columns": sorted(empty_columns),
        "fidelity": fidelity and asdict(fidelity),
        "figures": dict(figures),
        "files": files,
    }
    text = json.dumps(note, indent=1)
    (partial / NOTE).write_text(text)
    for path in (*partial.iterdir(), partial):
        make_durable(path)
    target = folder / _name(text.encode())
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(partial)  # another process has written these very bytes
    make_durable(folder)
    return _shard(target, side, note)


def open_shard(path: Path, identity: FeatureIdentity) -> Shard:
    """The shard at `path` after the cheap checks: everything but the bytes of the values. Raises
    `DamagedShardError`."""
    try:
        text = (path / NOTE).read_bytes()
        if _name(text) != path.name:
            raise DamagedShardError(f"{NOTE} has changed")
        note = json.loads(text)
        if _digest(path / SIDE) != note["files"][SIDE]:
            raise DamagedShardError(f"{SIDE} has changed")
        if (path / VALUES).stat().st_size != note["files"][VALUES]["bytes"]:
            raise DamagedShardError(f"{VALUES} has another size")
        side = np.load(path / SIDE)
        stored = np.load(path / VALUES, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise error if isinstance(error, DamagedShardError) else DamagedShardError(str(error)) from error
    if stored.shape != (len(side), identity.width) or stored.dtype != identity.dtype or side.dtype != SIDE_TYPE:
        raise DamagedShardError(f"{VALUES} holds {stored.dtype} {stored.shape}, not what the store's identity says")
    return _shard(path, side, note)


def check_files(path: Path) -> None:
    """Read the whole shard at `path` and compare it with its name and checksums; raises `DamagedShardError`."""
    try:
        text = (path / NOTE).read_bytes()
        if _name(text) != path.name:
            raise DamagedShardError(f"{NOTE} has changed")
        for name, expected in json.loads(text)["files"].items():
            if name not in (VALUES, SIDE) or _digest(path / name) != expected:
                raise DamagedShardError(f"{name} has changed")
    except OSError as error:
        raise DamagedShardError(str(error)) from error


def is_shard(path: Path) -> bool:
    """Whether the name is a shard's: not one in the making, one set aside, or a stranger's folder."""
    return re.fullmatch(f"[0-9a-f]{{{NAME_LENGTH}}}", path.name) is not None


def _shard(path: Path, side: np.ndarray, note: Mapping[str, Any]) -> Shard:
    fidelity = Fidelity(**note["fidelity"]) if note["fidelity"] else None
    return Shard(path, side, note["excluded"], note["empty_columns"], fidelity, note["figures"])


def _name(note: bytes) -> str:
    return hashlib.sha256(note).hexdigest()[:NAME_LENGTH]


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def make_durable(path: Path) -> None:
    """A file's bytes, or the entries of a folder, survive a loss of power from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
