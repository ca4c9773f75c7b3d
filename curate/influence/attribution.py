"""The attribution matrix A: checkpoint cosines averaged with the learning rates that were really used (influence spec,
section 9).

N x M may be far larger than memory (5,000,000 x 350 float32 is 7 GB), so the checkpoints' scores are read once, block
of rows by block, and the matrix is written as it grows; rows and columns that turn out unusable are taken out in
place. Three passes over the result: write, compact, deviations. Memory: a few blocks, plus the ids. float64
accumulation over checkpoints, float32 in the file. No mean or maximum over a task happens here: that belongs to
selection.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.influence.features.rows import BlockSource
from curate.scores import VALUES, write_labels

ROWS_PER_BLOCK = 4096


class AttributionError(ValueError):
    """Scores from which no attribution matrix can be made."""


@dataclass(frozen=True)
class AttributionMatrix:
    """values: (N, M) float32 in [-1, 1], rows = pool, columns = targets; row_ids (N,); column_ids, tasks (M,); weights
    (K,) float64, sum 1; mean, std: (M,) float64 of the stored values, ddof 1; excluded_rows, excluded_columns: id ->
    reason; constant_columns: ids of columns without spread, which rank nothing; settings: hash of what made the
    scores."""

    values: np.ndarray
    row_ids: list[str]
    column_ids: list[str]
    tasks: list[str]
    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    excluded_rows: dict[str, str]
    excluded_columns: dict[str, str]
    constant_columns: list[str]
    settings: str | None = None


class SketchCosines:
    """Cosines of stored unit features with unit targets, as a `BlockSource` of shape (N, M).

    features: (N, d) source; target_unit: (M, d), NaN rows for unusable targets. A block is multiplied in float32,
    whatever the features are stored as: NumPy multiplies float16 some hundred times slower.
    """

    def __init__(self, features: BlockSource, target_unit: np.ndarray) -> None:
        if features.shape[1] != target_unit.shape[1]:
            raise AttributionError(
                f"features of width {features.shape[1]} and targets of width {target_unit.shape[1]} come from "
                "different sketches; compute the targets with the store's own"
            )
        self.shape = (features.shape[0], len(target_unit))
        self._features = features
        self._transposed = np.ascontiguousarray(np.asarray(target_unit, dtype=np.float32).T)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return np.asarray(self._features[rows], dtype=np.float32) @ self._transposed


class ScaledRows:
    """A source's rows, each times a factor of its own: cosines times the length of the row's gradient are dot products
    with the unit targets. factors: (N,) in [0, 1], so that the scores stay in [-1, 1]."""

    def __init__(self, source: BlockSource, factors: np.ndarray) -> None:
        if len(factors) != source.shape[0]:
            raise AttributionError(f"{len(factors)} factors do not fit {source.shape[0]} rows")
        self.shape = source.shape
        self._source = source
        self._factors = np.asarray(factors, dtype=np.float32)[:, None]

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return self._source[rows] * self._factors[rows]


def attribution_matrix(
    parts: Sequence[BlockSource],
    weights: np.ndarray,
    row_ids: Sequence[str],
    column_ids: Sequence[str],
    tasks: Sequence[str],
    *,
    out: Path | None = None,
    block_rows: int = ROWS_PER_BLOCK,
    tolerance: float = 1e-3,
    settings: str | None = None,
) -> AttributionMatrix:
    """A[i, j] = sum over checkpoints of w_k cos(U_ik, g_jk).

    parts: K sources (N, M) of cosines, read once, `block_rows` rows at a time; weights: (K,) with sum 1; the ids name
    rows and columns, `tasks` labels the columns; out: .npy file for the values, which are then a memory map of it, else
    they stay in memory; settings: kept with the matrix. A column or row that is not finite at some checkpoint is left
    out, with its name and reason. Raises `AttributionError` on shapes that do not fit, on a cosine outside [-1, 1] by
    more than `tolerance`, and when every target of a task is unusable; `out` is then not there.
    """
    shape = (len(row_ids), len(column_ids))
    for k, part in enumerate(parts):
        if tuple(part.shape) != shape:
            raise AttributionError(f"checkpoint {k} has scores of shape {part.shape}, the ids say {shape}")
    if len(parts) != len(weights) or not np.isclose(np.sum(weights), 1.0):
        raise AttributionError(f"{len(parts)} checkpoints need as many weights with sum 1, got {list(weights)}")
    weights = np.asarray(weights, dtype=np.float64)

    partial = out.with_name(f".{out.name}.partial") if out else None
    try:
        with partial.open("w+b") if partial else io.BytesIO() as stream:
            table = _Table(stream, shape)
            good_columns = _accumulate(table, parts, weights, block_rows, tolerance)
            lost = sorted(set(tasks) - {task for task, good in zip(tasks, good_columns, strict=True) if good})
            if lost:
                raise AttributionError(
                    f"every target of {', '.join(lost)} is unusable: replace them or remove the task"
                )
            good_rows, mean = _compact(table, good_columns)
            mean, std, constant = _deviations(table, mean)
            if out is None:
                values = table.read(0, table.shape[0])
        if out is not None and partial is not None:
            partial.replace(out)
            values = np.load(out, mmap_mode="r")
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    kept_columns = [column for column, good in zip(column_ids, good_columns, strict=True) if good]
    return AttributionMatrix(
        values=values,
        row_ids=[row for row, good in zip(row_ids, good_rows, strict=True) if good],
        column_ids=kept_columns,
        tasks=[task for task, good in zip(tasks, good_columns, strict=True) if good],
        weights=weights,
        mean=mean,
        std=std,
        excluded_rows={row: "no finite score" for row, good in zip(row_ids, good_rows, strict=True) if not good},
        excluded_columns={
            column: "no finite score" for column, good in zip(column_ids, good_columns, strict=True) if not good
        },
        constant_columns=[column for column, flat in zip(kept_columns, constant, strict=True) if flat],
        settings=settings,
    )


class _Table:
    """A float32 matrix in .npy form on a stream, read and written by rows.

    Plain reads and writes and no memory map: the pages of a map count as the process's memory until they are written
    back.
    """

    def __init__(self, stream: io.BufferedRandom | io.BytesIO, shape: tuple[int, int]) -> None:
        self._stream = stream
        self.shape = shape
        self._data = self._write_header()

    def read(self, start: int, count: int = ROWS_PER_BLOCK) -> np.ndarray:
        """Rows from `start`, `count` or as many as there are."""
        rows = np.empty((min(count, self.shape[0] - start), self.shape[1]), dtype=np.float32)
        self._stream.seek(self._data + rows.itemsize * self.shape[1] * start)
        self._stream.readinto(rows.data)
        return rows

    def write(self, start: int, rows: np.ndarray) -> None:
        """Float32 rows at `start` of a matrix as wide as they are."""
        self._stream.seek(self._data + rows.itemsize * rows.shape[1] * start)
        self._stream.write(np.ascontiguousarray(rows).data)

    def resize(self, shape: tuple[int, int]) -> None:
        """Cut to `shape`, which the caller has moved to the front."""
        self.shape = shape
        if self._write_header() != self._data:  # NumPy leaves room in a header so that its size stays
            raise AttributionError(f"this NumPy's .npy header has another size for {shape}; please report this")
        self._stream.truncate(self._data + 4 * shape[0] * shape[1])

    def _write_header(self) -> int:
        self._stream.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._stream, header)
        return self._stream.tell()


def _accumulate(
    table: _Table, parts: Sequence[BlockSource], weights: np.ndarray, block_rows: int, tolerance: float
) -> np.ndarray:
    """Fill the table, unusable cells included; (M,) bool, the columns with at least one finite score."""
    good_columns = np.zeros(table.shape[1], dtype=bool)
    for start in range(0, table.shape[0], block_rows):
        rows = slice(start, min(start + block_rows, table.shape[0]))
        total = np.zeros((rows.stop - rows.start, table.shape[1]), dtype=np.float64)
        for w, part in zip(weights, parts, strict=True):
            total += w * part[rows]
        finite = np.isfinite(total)
        worst = float(np.abs(total).max(initial=0.0, where=finite))
        if worst > 1 + tolerance:
            raise AttributionError(f"a cosine of {worst:.4f} is outside [-1, 1]: the checkpoints' files are damaged")
        good_columns |= finite.any(axis=0)
        table.write(start, total.astype(np.float32))
    return good_columns


def _compact(table: _Table, good_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take out the columns that are not good and the rows that are not finite in the others, each block moved to the
    front of the table; (N,) bool, the rows that stay, and their (M',) float64 sums divided by their count."""
    columns = np.flatnonzero(good_columns)
    good_rows = np.ones(table.shape[0], dtype=bool)
    total = np.zeros(len(columns), dtype=np.float64)
    kept = 0
    for start in range(0, table.shape[0], ROWS_PER_BLOCK):
        block = table.read(start)
        usable = block if len(columns) == block.shape[1] else block[:, columns]
        good = np.isfinite(usable).all(axis=1)
        good_rows[start : start + len(block)] = good
        usable = usable if good.all() else usable[good]
        if kept != start or usable.size != block.size:  # never ahead of what is still to be read
            table.write(kept, usable)
        total += usable.sum(axis=0, dtype=np.float64)
        kept += len(usable)
    if good_rows.size and not kept:
        raise AttributionError("no pool row has a finite score; look at the warmup's loss")
    if (kept, len(columns)) != table.shape:
        table.resize((kept, len(columns)))
    return good_rows, total / max(kept, 1)


def _deviations(table: _Table, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean without its rounding error, std with ddof 1 and whether the column is constant, (M,) each.

    The blocks are the same whatever the caller's `block_rows`, so the figures are the same bits.
    """
    rest, squares = np.zeros_like(mean), np.zeros_like(mean)
    low, high = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
    for start in range(0, table.shape[0], ROWS_PER_BLOCK):
        block = table.read(start)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        residual = block - mean
        rest += residual.sum(axis=0)
        squares += np.square(residual, out=residual).sum(axis=0)
    constant = low == high  # the computed mean of a constant column is not always its value
    std = np.sqrt(squares / max(table.shape[0] - 1, 1))
    return mean + rest / max(table.shape[0], 1), np.where(constant, 0.0, std), constant


def write_attribution(folder: Path, matrix: AttributionMatrix) -> None:
    """The matrix as a score folder (`curate.scores`), with its column statistics, weights and exclusions.

    Values that `attribution_matrix` has already written there (`out=folder / VALUES`) are not written again.
    """
    values = folder / VALUES
    written = getattr(matrix.values, "filename", None)  # of a memory map
    if written is None or Path(written).resolve() != values.resolve():
        np.save(values, matrix.values)
    write_labels(
        folder,
        matrix.row_ids,
        matrix.column_ids,
        matrix.tasks,
        statistics={"mean": matrix.mean, "std": matrix.std},
        summary={
            "weights": matrix.weights.tolist(),
            "excluded_rows": matrix.excluded_rows,
            "excluded_columns": matrix.excluded_columns,
            "constant_columns": matrix.constant_columns,
            "settings": matrix.settings,
        },
    )
