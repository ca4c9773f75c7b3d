"""The feature store: float vectors of pool rows at one checkpoint, written once and read by content.

Several processes may write into one folder at the same time; each writes shards of its own (`shard.py`) and sees the
others' when it opens the store again. One copy of a value is on disk, `FeatureIdentity.bytes_per_row` bytes a row:
LESS's 270,679 rows at 4 checkpoints with d = 8192 in float16 are 17.8 GB, in int8 8.9 GB. In memory a row costs about
120 bytes (key, norm and its place), whatever its width.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from curate.influence.features.identity import KEY_LENGTH, SIDE_TYPE, FeatureIdentity, FeatureStoreError
from curate.influence.features.rows import StoredRows
from curate.influence.features.shard import (
    PARTIAL,
    DamagedShardError,
    Shard,
    check_files,
    is_shard,
    make_durable,
    open_shard,
    write_shard,
)
from curate.influence.features.values import Fidelity, check_values

IDENTITY = "identity.json"
DAMAGED = ".damaged"
LEFTOVER_S = 24 * 3600  # no live process takes a day to write one shard
logger = logging.getLogger(__name__)


class FeatureStore:
    """Row values of `identity` in `folder`, which is created, or opened if it holds the same identity.

    Raises `FeatureStoreError` when the folder holds features of another identity.
    """

    def __init__(self, folder: Path, identity: FeatureIdentity) -> None:
        self.folder = Path(folder)
        self.identity = identity
        self._damaged: list[str] = []
        self._claim()
        self._shards = self._open_shards()
        self._index: tuple[np.ndarray, np.ndarray] | None = None

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of the rows that are not stored, ascending; of equal keys only the first.

        One call costs a sort of all stored keys after each write, so ask for all rows at once.
        """
        wanted = _key_array(keys)
        absent = np.flatnonzero(self._locate(wanted) < 0)
        first = np.unique(wanted[absent], return_index=True)[1]
        return sorted(absent[first].tolist())

    def write(
        self,
        keys: Sequence[str],
        values: np.ndarray,
        norms: np.ndarray,
        tokens: np.ndarray,
        excluded: Mapping[str, str],
        *,
        empty_columns: Sequence[int] = (),
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Store rows as one shard.

        values: (n, w) float32; norms: (n,) float32 before normalisation; tokens: (n,) trained tokens; excluded: key ->
        reason, those rows are NaN; empty_columns: columns that are NaN in every row, as of an unusable target; figures:
        what else is known of these rows, averaged by `figures()`. Raises `FeatureStoreError` naming the row when a
        value is not finite, or too large for the store's dtype.
        """
        known = _key_array(keys)
        values = np.asarray(values, dtype=np.float32)
        expected = (len(keys), self.identity.width)
        if values.shape != expected or len(norms) != len(keys) or len(tokens) != len(keys):
            raise FeatureStoreError(
                f"values {values.shape}, {len(norms)} norms and {len(tokens)} token counts do not fit {len(keys)} keys "
                f"of width {self.identity.width}"
            )
        if len(np.unique(known)) != len(known):
            raise FeatureStoreError("a key is given twice in one write; write the rows that `missing` names")
        stray = set(excluded).difference(keys)
        if stray:
            raise FeatureStoreError(f"excluded row {min(stray)} is not among the keys of this write")
        if not len(keys):
            return
        check_values(keys, values, excluded, empty_columns, self.identity.dtype)
        side = np.zeros(len(keys), dtype=SIDE_TYPE)
        side["key"], side["norm"], side["tokens"] = known, norms, tokens
        shard = write_shard(self.folder, self.identity, side, values, excluded, empty_columns, figures or {})
        others = (other for other in self._shards if other.path != shard.path)
        self._shards = sorted((*others, shard), key=lambda each: each.path.name)
        self._index = None

    def verify(self) -> list[str]:
        """Read everything; names of the damaged shards, found now or when the store was opened.

        A damaged shard is set aside under a `.damaged` name, so that exactly its rows are missing.
        """
        for shard in self._shards[:]:
            try:
                check_files(shard.path)
            except DamagedShardError as error:
                self._set_aside(shard.path, error)
                self._shards.remove(shard)
                self._index = None
        return list(self._damaged)

    def rows(self, keys: Sequence[str]) -> StoredRows:
        """The rows' values in this order, (n, w) float32 by blocks; NaN for excluded rows. Raises `FeatureStoreError`
        if a row is not stored."""
        return StoredRows(self._shards, self._find(keys), self.identity.width)

    def norms(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) float32 norms before normalisation."""
        return self._side("norm")[self._find(keys)]

    def tokens(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) int32 trained tokens."""
        return self._side("tokens")[self._find(keys)]

    def excluded(self, keys: Sequence[str]) -> dict[str, str]:
        """Those of `keys` whose rows hold no value -> the reason."""
        reasons = {key: reason for shard in self._shards for key, reason in shard.excluded.items()}
        self._find(keys)
        return {key: reasons[key] for key in keys if key in reasons}

    def fidelity(self) -> Fidelity | None:
        """How close the stored rows are to the given ones; None when nothing is lost (float32) or nothing stored."""
        parts = [shard.fidelity for shard in self._shards if shard.fidelity]
        rows = sum(part.rows for part in parts)
        if not rows:
            return None
        return Fidelity(rows, sum(p.rows * p.mean for p in parts) / rows, min(part.worst for part in parts))

    def figures(self) -> dict[str, float]:
        """The writers' own figures, averaged over the rows of the shards that have them."""
        totals: dict[str, tuple[float, int]] = {}
        for shard in self._shards:
            for name, value in shard.figures.items():
                total, rows = totals.get(name, (0.0, 0))
                totals[name] = (total + len(shard.side) * value, rows + len(shard.side))
        return {name: total / rows for name, (total, rows) in totals.items()}

    def _claim(self) -> None:
        """Write the identity, or compare it with the one that is there."""
        path = self.folder / IDENTITY
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_identity(path)
        try:
            stored = FeatureIdentity.model_validate_json(path.read_text())
        except ValidationError as error:
            raise FeatureStoreError(f"{path} is damaged: {error}; remove {self.folder} to compute it again") from error
        if stored != self.identity:
            raise FeatureStoreError(
                f"{self.folder} holds features of another identity (stored != asked for): "
                f"{stored.difference(self.identity)}. Ask for the stored one, use another folder, or remove this one "
                "to compute all rows again"
            )

    def _write_identity(self, path: Path) -> None:
        with FileLock(self.folder / ".lock"):
            if path.exists():  # another process was first
                return
            if any(is_shard(entry) for entry in self.folder.iterdir()):
                raise FeatureStoreError(f"{self.folder} has shards but no {IDENTITY}: use an empty folder")
            temporary = path.with_suffix(".partial")
            temporary.write_text(self.identity.model_dump_json(indent=1))
            make_durable(temporary)
            temporary.replace(path)

    def _open_shards(self) -> list[Shard]:
        shards = []
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(PARTIAL):
                _discard_leftover(path)
            elif is_shard(path):
                try:
                    shards.append(open_shard(path, self.identity))
                except DamagedShardError as error:
                    self._set_aside(path, error)
        return shards

    def _set_aside(self, path: Path, error: DamagedShardError) -> None:
        names = (f"{path.name}{DAMAGED}{f'-{n}' if n else ''}" for n in itertools.count())
        aside = next(aside for name in names if not (aside := path.with_name(name)).exists())
        if path.exists():  # else another process has done it
            path.rename(aside)
        logger.warning("feature shard %s is damaged (%s): set aside as %s, its rows are missing", path, error, aside)
        self._damaged.append(path.name)

    def _side(self, name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, SIDE_TYPE[name]), *(shard.side[name] for shard in self._shards)])

    def _locate(self, wanted: np.ndarray) -> np.ndarray:
        """(n,) int64 places in all shards one after the other; -1 where a key is not stored."""
        if self._index is None:
            keys = self._side("key")
            order = np.argsort(keys, kind="stable")  # of a row in two shards, the first shard's counts
            self._index = keys[order], order
        ordered, order = self._index
        if not len(ordered):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[at] == wanted, order[at], -1)

    def _find(self, keys: Sequence[str]) -> np.ndarray:
        positions = self._locate(_key_array(keys))
        absent = np.flatnonzero(positions < 0)
        if len(absent):
            raise FeatureStoreError(
                f"{len(absent)} of {len(keys)} rows are not in {self.folder}, the first is {keys[absent[0]]}; write "
                "the rows that `missing` names, and open the store again if another process wrote them"
            )
        return positions


def _key_array(keys: Sequence[str]) -> np.ndarray:
    # NumPy would cut a longer key without a word
    wrong = next((key for key in keys if not (0 < len(key) <= KEY_LENGTH and key.isascii())), None)
    if wrong is not None:
        raise FeatureStoreError(f"{wrong!r} is no row key (1 to {KEY_LENGTH} ASCII characters); use `row_key`")
    return np.array(keys, dtype=SIDE_TYPE["key"]).reshape(len(keys))


def _discard_leftover(path: Path) -> None:
    """Remove what a killed process left; a younger folder may be another process's shard in the making."""
    try:
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(path)
    except FileNotFoundError:
        pass  # finished, or removed by another process
