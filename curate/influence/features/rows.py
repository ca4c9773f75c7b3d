"""Stored rows in a caller's order, read block by block: never more in memory than the block that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from curate.influence.features.shard import Shard


class BlockSource(Protocol):
    """A matrix that is read by blocks of rows. Arrays and memory maps are such sources."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class StoredRows:
    """A `BlockSource` over the shards of a store: `rows[a:b]` is (b - a, w) float32.

    positions: (n,) int64, the row's place in all shards one after the other.
    """

    def __init__(self, shards: Sequence[Shard], positions: np.ndarray, width: int) -> None:
        self.shape = (len(positions), width)
        self._shards = tuple(shards)
        self._positions = positions
        self._starts = np.cumsum([0, *(len(shard.side) for shard in shards)])

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"stored rows are read by blocks, rows[a:b], not by {rows!r}")
        positions = self._positions[rows]
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        block = np.empty((len(positions), self.shape[1]), dtype=np.float32)
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            run = mine[-1] - mine[0] + 1 == len(mine)  # then straight into its place, without a copy between
            values = block[mine[0] : mine[-1] + 1] if run else np.empty((len(mine), self.shape[1]), dtype=np.float32)
            self._shards[owner].read(positions[mine] - self._starts[owner], values)
            if not run:
                block[mine] = values
        return block
