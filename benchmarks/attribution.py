"""What the attribution matrix costs at pool sizes far beyond memory, and that its cost grows no faster than the pool.

    .venv/bin/python benchmarks/attribution.py /tmp/attribution                    # 1,000,000 rows, 1.4 GB of disk
    .venv/bin/python benchmarks/attribution.py /tmp/attribution --rows 5000000     # 7 GB of disk, about 1 minute

Two parts. (1) `attribution_matrix` over K = 2 synthetic sources of M = 350 targets, at 100,000 rows times 1, 2, 4 and 8
and at `--rows`, written to a file in FOLDER that is deleted afterwards. The sources hand out slices of one random
block, so that the time is the matrix's own. Each size runs in a process of its own; its memory is the peak of resident
pages, beside the peak before the call, which is the libraries and the row ids. (2) The same through a real feature
store: unit features of d = 4,096 written and read back as float32, float16 and int8, multiplied with the targets,
beside the bare float32 product of the same blocks in memory, which is the floor.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import time
from pathlib import Path

import numpy as np

from curate.influence.attribution import ROWS_PER_BLOCK, SketchCosines, attribution_matrix
from curate.influence.features import FeatureIdentity, FeatureStore

TARGETS, CHECKPOINTS, UNIT_ROWS = 350, 2, 100_000
STORED_ROWS, STORED_WIDTH, SHARD_ROWS = 16_384, 4096, 2048


class Synthetic:
    """(rows, M) cosines of about the published spread, made block by block out of one random block."""

    def __init__(self, rows: int, seed: int) -> None:
        self.shape = (rows, TARGETS)
        self._block = np.random.default_rng(seed).normal(0, 0.011, (2 * ROWS_PER_BLOCK, TARGETS)).astype(np.float32)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start = 7919 * rows.start % ROWS_PER_BLOCK
        return self._block[start : start + rows.stop - rows.start]


def peak() -> int:
    """Largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def matrix_of(rows: int, folder: Path) -> tuple[float, int, int]:
    """Seconds, and peak MiB before and after the call, for `rows` rows."""
    sources = [Synthetic(rows, k) for k in range(CHECKPOINTS)]
    row_ids = [f"row-{i:09d}" for i in range(rows)]
    columns = [f"target-{j}" for j in range(TARGETS)]
    tasks = [f"task-{j % 7}" for j in range(TARGETS)]
    out = folder / "scores.npy"
    before, started = peak(), time.perf_counter()
    matrix = attribution_matrix(sources, np.full(CHECKPOINTS, 1 / CHECKPOINTS), row_ids, columns, tasks, out=out)
    seconds = time.perf_counter() - started
    assert matrix.values.shape == (rows, TARGETS)
    out.unlink()
    return seconds, before, peak()


def scale(rows: int, folder: Path) -> None:
    print(f"attribution of N x {TARGETS}, {CHECKPOINTS} checkpoints")
    print(f"{'rows':>10} {'seconds':>8} {'rows/s':>9} {'us/row':>7} {'before MiB':>11} {'peak MiB':>10}")
    for size in [UNIT_ROWS * factor for factor in (1, 2, 4, 8)] + [rows]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, before, after = pool.apply(matrix_of, (size, folder))
        print(
            f"{size:>10} {seconds:>8.2f} {size / seconds:>9.0f} {1e6 * seconds / size:>7.2f} {before:>11} {after:>10}"
        )


def identity(dtype: str) -> FeatureIdentity:
    return FeatureIdentity(
        kind="sketch",
        width=STORED_WIDTH,
        seed=0,
        dtype=dtype,
        model="benchmark",
        checkpoint="benchmark",
        template="benchmark",
        max_length=512,
        preconditioner="less",
        betas=(0.9, 0.999),
        eps=1e-8,
        step=1,
        parameters="benchmark",
        targets=None,
        precision="float32",
    )


def unit_rows(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, STORED_WIDTH), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def stores(folder: Path) -> None:
    values, targets = unit_rows(STORED_ROWS, 0), unit_rows(TARGETS, 1)
    keys = [f"{i:032x}" for i in range(STORED_ROWS)]
    blocks = [slice(a, a + ROWS_PER_BLOCK) for a in range(0, STORED_ROWS, ROWS_PER_BLOCK)]

    def seconds(source: np.ndarray | SketchCosines) -> float:
        started = time.perf_counter()
        for block in blocks:
            source[block] @ targets.T if isinstance(source, np.ndarray) else source[block]
        return time.perf_counter() - started

    floor = min(seconds(values) for _ in range(3))
    print(f"\nfeatures to cosines, {STORED_ROWS} rows of {STORED_WIDTH} with {TARGETS} targets")
    print(f"{'bare float32 product in memory':<32} {STORED_ROWS / floor:>9.0f} rows/s")
    for dtype in ("float32", "float16", "int8"):
        store = FeatureStore(folder / dtype, identity(dtype))
        started = time.perf_counter()
        for a in range(0, STORED_ROWS, SHARD_ROWS):
            part = slice(a, a + SHARD_ROWS)
            ones = np.ones(SHARD_ROWS, dtype=np.float32)
            store.write(keys[part], values[part], ones, ones, {})
        written = time.perf_counter() - started
        cosines = SketchCosines(store.rows(keys), targets)
        read = min(seconds(cosines) for _ in range(3))
        worst = store.fidelity().worst if store.fidelity() else 1.0
        print(
            f"{f'store, {dtype}':<32} {STORED_ROWS / read:>9.0f} rows/s  {read / floor:.2f} x   written at "
            f"{STORED_ROWS / written:.0f} rows/s, {store.identity.bytes_per_row} bytes/row, worst cosine {worst:.7f}"
        )
        shutil.rmtree(folder / dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the temporary matrix and stores go")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the largest matrix")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    scale(given.rows, given.folder)
    stores(given.folder)


if __name__ == "__main__":
    main()
