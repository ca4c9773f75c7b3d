"""Row shards on disk presented as one (N, M) score matrix that is never in memory.

Shards are `.npy` files in row order. They are read with plain reads at an offset and not mapped: the pages of a memory
map count as resident memory until the system takes them back, so a pass over a map of 7 GB shows as 7 GB. Offers
what the methods ask of an array: shape, dtype, one row, a slice or list of rows, and one column (a pass over all).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.records import DataError

READ_BYTES = 16 * 2**20


class ShardedScores:
    """The rows of the given `.npy` files, one file after the other. One open file per shard.

    shape: (N, M); dtype: theirs. Raises `DataError` for a file that is no C-ordered two-dimensional array, that is cut
    short, or whose columns or dtype differ from the first one's.
    """

    ndim = 2

    def __init__(self, paths: Sequence[Path | str]):
        if not paths:
            raise DataError("no score shards: give at least one .npy file")
        self.paths = [Path(path) for path in paths]
        headers = [_header(path) for path in self.paths]
        self.dtype, columns = headers[0][1], headers[0][0][1]
        for path, (shape, dtype, _) in zip(self.paths, headers, strict=True):
            if (shape[1], dtype) != (columns, self.dtype):
                raise DataError(
                    f"{path} holds {shape[1]} columns of {dtype}, {self.paths[0]} {columns} of {self.dtype}; shards of "
                    "one matrix have the same columns and type"
                )
        self._first = np.cumsum([0, *(shape[0] for shape, _, _ in headers)])
        self._offset = [offset for _, _, offset in headers]
        self.shape = (int(self._first[-1]), columns)
        self._row_bytes = columns * self.dtype.itemsize
        self._files = [os.open(path, os.O_RDONLY) for path in self.paths]
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """A row, (n,) rows by slice or by index array, or `[:, column]`."""
        if isinstance(key, tuple):
            rows, columns = key
            if not (isinstance(rows, slice) and rows == slice(None)):
                return self[rows][..., columns]
            pieces = range(0, self.shape[0], max(1, READ_BYTES // max(1, self._row_bytes)))
            return np.concatenate([self[start : start + pieces.step][:, columns] for start in pieces])
        if isinstance(key, slice):
            start, stop, step = key.indices(self.shape[0])
            return self._read(start, max(start, stop)) if step == 1 else self[np.arange(start, stop, step)]
        if np.ndim(key) == 0:
            row = range(self.shape[0])[int(key)]
            return self._read(row, row + 1)[0]
        rows = np.asarray(key)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return np.stack([self[row] for row in rows]) if rows.size else np.empty((0, self.shape[1]), self.dtype)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, M) fresh array."""
        out = np.empty((stop - start, self.shape[1]), dtype=self.dtype)
        done, shard = 0, int(np.searchsorted(self._first, start, side="right")) - 1
        while start + done < stop:
            row = start + done
            count = min(stop, int(self._first[shard + 1])) - row
            place = out[done : done + count].reshape(-1).view(np.uint8).data
            position = self._offset[shard] + (row - int(self._first[shard])) * self._row_bytes
            while place:
                got = os.preadv(self._files[shard], [place], position)
                if not got:
                    raise DataError(f"{self.paths[shard]} became shorter while it was read; write it again")
                place, position = place[got:], position + got
            done, shard = done + count, shard + 1
        return out


def _header(path: Path) -> tuple[tuple[int, int], np.dtype, int]:
    """Shape, dtype and the offset of the values of a `.npy` file."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"no such score shard: {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a complete .npy file: {error}") from error
    if not isinstance(mapped, np.memmap) or mapped.ndim != 2 or not mapped.flags.c_contiguous:
        raise DataError(f"{path} must hold a C-ordered (rows, targets) matrix; save np.ascontiguousarray(...) of it")
    return (mapped.shape[0], mapped.shape[1]), mapped.dtype, mapped.offset


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
