"""What BIDS costs: the published pool size from a memory map, five million rows from shards, and the growth with N, M
and B.

    .venv/bin/python benchmarks/selection.py --plot cost.png         # about 2 minutes on 2 CPU cores
    .venv/bin/python benchmarks/selection.py --huge /tmp/scores      # 7 GB of shards, written, selected from, deleted

Every selection runs in a process of its own, which reports its time and its largest resident memory, pages of the map
included. Bounds (2 cores): 288,579 x 350 float32, 43,286 picks, 10 s and 2.5 GB; 5,000,000 x 350, 4 GB. Scores are
synthetic: eight common factors and noise, in the units of real influence.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curate.selection import bids
from curate.selection.sharded import ShardedScores

PUBLISHED = (288_579, 350, 43_286)
HUGE = (5_000_000, 350, 50_000)
SHARD_ROWS, FACTORS = 250_000, 8
BASE = (100_000, 200, 10_000)
GROWTH = {
    "N": [(n, BASE[1], BASE[2]) for n in (25_000, 50_000, 100_000, 200_000, 400_000)],
    "M": [(BASE[0], m, BASE[2]) for m in (25, 50, 100, 200, 400)],
    "B": [(BASE[0], BASE[1], b) for b in (1_000, 3_000, 10_000, 30_000, 90_000)],
}


def synthetic(rows: int, columns: int, seed: int) -> np.ndarray:
    """(rows, columns) float32; the factors are the same for every seed, so that shards are parts of one matrix."""
    loadings = np.random.default_rng(0).normal(0, 0.3, (FACTORS, columns)).astype(np.float32)
    rng = np.random.default_rng(seed + 1)
    common = rng.standard_normal((rows, FACTORS), dtype=np.float32) @ loadings
    return (common + rng.standard_normal((rows, columns), dtype=np.float32)) * np.float32(0.011)


def write_shards(folder: Path, rows: int, columns: int) -> list[Path]:
    paths = []
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        paths.append(folder / f"scores-{number:04}.npy")
        np.save(paths[-1], synthetic(min(SHARD_ROWS, rows - start), columns, number))
    return paths


def selected(paths: Sequence[Path], budget: int) -> tuple[float, float, int]:
    """Seconds, GB of resident memory at most, and a checksum of the order; one path is mapped, several are shards."""
    started = time.perf_counter()
    scores = np.load(paths[0], mmap_mode="r") if len(paths) == 1 else ShardedScores(paths)
    order = bids(scores, budget).order
    seconds = time.perf_counter() - started
    # not ru_maxrss, which starts from what the parent process had
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024 / 1e9
    return seconds, peak, int((order * (np.arange(order.size) + 1)).sum())


def measured(paths: Sequence[Path], budget: int) -> tuple[float, float, int]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(selected, (paths, budget))


def show(shape: tuple[int, int, int], found: tuple[float, float, int], note: str = "") -> None:
    rows, columns, budget = shape
    seconds, peak, check = found
    print(f"{rows:>10,} {columns:>5} {budget:>7,}  {seconds:8.2f} s  {peak:5.2f} GB  {check:>16}  {note}", flush=True)


def published(folder: Path) -> None:
    rows, columns, budget = PUBLISHED
    path = folder / "scores.npy"
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, columns))
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        out[start : start + SHARD_ROWS] = synthetic(min(SHARD_ROWS, rows - start), columns, number)
    del out
    for _ in range(3):
        show(PUBLISHED, measured([path], budget), "memory map; bounds 10 s, 2.5 GB")
    shards = write_shards(folder, rows, columns)
    show(PUBLISHED, measured(shards, budget), f"{len(shards)} shards; the same order")


def growth(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Seconds by size along each axis, the best of three runs."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for axis, shapes in GROWTH.items():
        curves[axis] = []
        for shape in shapes:
            path = folder / "growth.npy"
            np.save(path, synthetic(shape[0], shape[1], 0))
            found = min(measured([path], shape[2]) for _ in range(3))
            show(shape, found, f"growth with {axis}")
            curves[axis].append((shape["NMB".index(axis)], found[0]))
    return curves


def plot(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {"N": "pool rows N", "M": "targets M", "B": "picks B"}
    figure, axes = pyplot.subplots(1, len(curves), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        sizes, seconds = np.array(points).T
        axis.loglog(sizes, seconds, "o-", label="BIDS")
        axis.loglog(sizes, seconds[-1] * sizes / sizes[-1], ":", color="gray", label="proportional")
        fixed = {"N": BASE[0], "M": BASE[1], "B": BASE[2]} | {name: None}
        axis.set_title(", ".join(f"{key} = {value:,}" for key, value in fixed.items() if value), fontsize=9)
        axis.set_xlabel(titles[name])
        axis.set_xticks(sizes, [f"{int(size):,}" for size in sizes], fontsize=8)
        axis.minorticks_off()
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[0].legend()
    figure.savefig(path, dpi=130)
    print(f"plot: {path}")


def huge(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    paths: list[Path] = []
    try:
        paths = write_shards(folder, HUGE[0], HUGE[1])
        written = time.perf_counter() - started
        show(HUGE, measured(paths, HUGE[2]), f"{len(paths)} shards (written in {written:.0f} s); bound 4 GB")
    finally:
        for path in folder.glob("scores-*.npy"):
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--huge", type=Path, help="folder for 7 GB of shards; runs the five million rows only")
    parser.add_argument("--plot", type=Path, help="PNG of the growth with N, M and B")
    options = parser.parse_args()
    print(f"{'N':>10} {'M':>5} {'B':>7}  {'time':>10}  {'memory':>8}  {'order checksum':>16}")
    if options.huge:
        huge(options.huge)
        return
    with tempfile.TemporaryDirectory() as folder:
        published(Path(folder))
        curves = growth(Path(folder))
    if options.plot:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
