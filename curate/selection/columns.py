"""A score matrix read by columns, whatever its layout and size: bounded pieces, each turned once, worked on in
threads.

Rows lie one after another on disk, so a column of a large matrix costs as much to read as the matrix. Rows are
therefore read in order, in panels of `PANEL_ROWS` rows and some columns, and turned tile by tile in cache (twice as
fast as one strided copy). A panel starts at a multiple of `PANEL_ROWS` for any dtype, shard layout and thread count,
so that what is added up panel by panel has the same bits everywhere. One pass reads shards once if `PANEL_ROWS` rows
fit into `READ_PANEL_BYTES` (375 float32 columns), and once more for every further such group of columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

PANEL_ROWS = 2**19  # part of the definition of mean and deviation above that many rows (`moments`)
PANEL_BYTES = 64 * 2**20
READ_PANEL_BYTES = 768 * 2**20  # where a group of columns costs a read of whole rows
TILE_ROWS = 1024

T = TypeVar("T")


def turned(matrix: Any, start: int, stop: int, columns: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Rows start..stop of the given ascending columns as a contiguous (columns, stop - start) copy of its dtype."""
    panel = np.empty((columns.size, stop - start), dtype=matrix.dtype) if out is None else out
    first, last = int(columns[0]), int(columns[-1]) + 1
    chosen: Any = slice(first, last) if last - first == columns.size else columns
    for row in range(start, stop, TILE_ROWS):
        end = min(row + TILE_ROWS, stop)
        panel[:, row - start : end - start] = matrix[row:end][:, chosen].T
    return panel


def row_panels(n_rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive row ranges that cover `n_rows` rows."""
    for start in range(0, n_rows, PANEL_ROWS):
        yield start, min(start + PANEL_ROWS, n_rows)


def map_columns(
    matrix: Any, columns: np.ndarray, work: Callable[[int, int, np.ndarray], T], block_columns: int | None = None
) -> Iterator[tuple[int, int, T]]:
    """`work(start, position, values)` for every row panel of every given column, in threads; yields (start, position,
    its answer).

    columns: ascending; position: index into it. values: (rows of the panel,) in the matrix's dtype, rows start
    onwards; they are overwritten later, so the answer must not hold them. Panels come in row order, and within a
    panel the columns in order.
    """
    n_rows, itemsize = matrix.shape[0], matrix.dtype.itemsize
    limit = PANEL_BYTES if isinstance(matrix, np.ndarray) else READ_PANEL_BYTES
    width = block_columns or max(1, limit // (itemsize * max(1, min(n_rows, PANEL_ROWS))))
    # one buffer for all panels: fresh memory costs as much again as turning
    buffer = np.empty(min(width, columns.size) * min(n_rows, PANEL_ROWS), dtype=matrix.dtype)
    ahead = 4 * threads()
    with ThreadPoolExecutor(threads()) as pool:
        for start, stop in row_panels(n_rows):
            for begin in range(0, columns.size, width):
                chosen = columns[begin : begin + width]
                out = buffer[: chosen.size * (stop - start)].reshape(chosen.size, stop - start)
                panel = turned(matrix, start, stop, chosen, out)
                # a few columns at a time, so that waiting answers stay few too
                for some in range(0, chosen.size, ahead):
                    positions = range(begin + some, begin + min(some + ahead, chosen.size))
                    answers = pool.map(partial(work, start), positions, panel[some : some + ahead])
                    for position, answer in zip(positions, answers, strict=True):
                        yield start, position, answer


def threads() -> int:
    """Cores that this process may use; beyond eight the memory is the limit."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
