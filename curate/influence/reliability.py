"""Is a score signal? What can be said of an attribution matrix without training on it.

A target set is a sample, a checkpoint one of many and a sketch a random map, so part of every score is chance. Three
figures: how well one half of a task's targets predicts the ranking by the other half (Spearman 1910 and Brown 1910:
split-half reliability), how alike checkpoints rank, and how much of a column's spread is the sketch's own noise
(influence spec, section 7). High figures are necessary and not sufficient: what all targets of a task share, such as a
taste for long answers, is reliable and may still be useless. Cost: a few thousand sampled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from curate.influence.features import BlockSource


@dataclass(frozen=True)
class Reliability:
    """split_half: task -> reliability of the mean over its targets, in [-1, 1], about 0 for noise; None for a task
    with fewer than two usable targets. checkpoints: (K, K) rank correlations of the checkpoints' scores, each the
    median over the targets; empty if none were given. rows: how many were used."""

    split_half: dict[str, float | None]
    checkpoints: list[list[float]]
    rows: int


@dataclass(frozen=True)
class ProjectionNoise:
    """Sketched against exact scores of the same rows and targets; all figures are means over the targets.

    pearson, spearman: correlation over the rows; difference_std: deviation of sketched - exact; expected_std: what
    the theory says it is, 1 / sqrt(d) over independent checkpoints; exact_std, sketched_std: deviation of the column,
    the former all signal as far as the sketch is concerned. columns: targets that could be compared.
    """

    pearson: float
    spearman: float
    difference_std: float
    expected_std: float
    exact_std: float
    sketched_std: float
    columns: int


def reliability(
    scores: BlockSource,
    tasks: Sequence[str],
    parts: Sequence[BlockSource] = (),
    *,
    seed: int = 0,
    splits: int = 20,
    rows: int = 4096,
) -> Reliability:
    """scores: (N, M) attribution matrix; tasks: (M,) labels; parts: the K checkpoints' cosines, each (N', M'), whose
    rows need not be those of `scores`.

    splits: random halvings per task, the median counts; rows: sampled rows.
    """
    if len(tasks) != scores.shape[1]:
        raise ValueError(f"tasks has {len(tasks)} labels for {scores.shape[1]} columns; give one per target")
    random = np.random.default_rng([seed, 2])
    sample = _read(scores, _choose(scores.shape[0], rows, random))
    good, columns = _usable(sample)
    usable = sample[np.ix_(good, columns)]
    labels = np.array(tasks, dtype=object)[columns]
    return Reliability(
        split_half={task: split_half(usable[:, labels == task], splits, random) for task in dict.fromkeys(tasks)},
        checkpoints=checkpoint_agreement(parts, rows, random) if parts else [],
        rows=len(good),
    )


def split_half(values: np.ndarray, splits: int, random: np.random.Generator) -> float | None:
    """Reliability over rows of the mean of a task's targets, (n, m) finite values; None if there is nothing to halve.

    The correlation r between the means of two disjoint random sets of h columns is that of a mean over h; for all m
    columns Spearman and Brown give q r / (1 + (q - 1) r) with q = m / h.
    """
    half = values.shape[1] // 2
    if not half:
        return None
    q = values.shape[1] / half
    found = []
    for _ in range(splits):
        order = random.permutation(values.shape[1])
        one, other = (values[:, chosen].mean(axis=1)[:, None] for chosen in (order[:half], order[half : 2 * half]))
        r = float(_correlations(one, other)[0])
        if np.isfinite(r):  # not where a half has no spread
            # below -1 / (2 q - 1) the formula gives less than -1 and then has a pole
            found.append(q * r / (1 + (q - 1) * r) if r > -1 / (2 * q - 1) else -1.0)
    return float(np.median(found)) if found else None


def checkpoint_agreement(parts: Sequence[BlockSource], rows: int, random: np.random.Generator) -> list[list[float]]:
    """(K, K) Spearman correlations of every two checkpoints over the same sampled rows, median over the targets.

    Rows and targets that are not finite at some checkpoint are left out, and targets without spread.
    """
    chosen = _choose(parts[0].shape[0], rows, random)
    samples = [_read(part, chosen) for part in parts]
    usable = np.ix_(*_usable(*samples))
    ranks = [rankdata(sample[usable], axis=0) for sample in samples]
    found = [[_correlations(one, other) for other in ranks] for one in ranks]
    return [[float(np.median(r[np.isfinite(r)])) for r in line] for line in found]


def projection_noise(
    sketched: np.ndarray, exact: np.ndarray, width: int, *, weights: Sequence[float] = (1.0,)
) -> ProjectionNoise:
    """Compare (n, M) sketched scores with exact ones of the same rows and targets.

    width: the sketch's d; weights: of the checkpoints that were averaged, if each had a sketch of its own (for one
    sketch shared by all, leave it: the noise of checkpoints then need not cancel). Rows and targets that are not finite
    on both sides are left out. Raises ValueError when fewer than 3 rows or no target with spread remain.
    """
    if sketched.shape != exact.shape:
        raise ValueError(f"sketched scores {sketched.shape} and exact scores {exact.shape} are not of the same rows")
    usable = np.ix_(*_usable(sketched, exact))
    one, other = (part[usable].astype(np.float64) for part in (sketched, exact))
    spread = (np.ptp(one, axis=0) > 0) & (np.ptp(other, axis=0) > 0) if len(one) else np.zeros(one.shape[1], bool)
    if len(one) < 3 or not spread.any():
        raise ValueError(f"{len(one)} rows and {int(spread.sum())} targets with spread are too few to compare scores")
    one, other = one[:, spread], other[:, spread]
    return ProjectionNoise(
        pearson=float(_correlations(one, other).mean()),
        spearman=float(_correlations(rankdata(one, axis=0), rankdata(other, axis=0)).mean()),
        difference_std=float((one - other).std(axis=0, ddof=1).mean()),
        expected_std=float(np.sqrt(np.square(weights).sum() / width)),
        exact_std=float(other.std(axis=0, ddof=1).mean()),
        sketched_std=float(one.std(axis=0, ddof=1).mean()),
        columns=int(spread.sum()),
    )


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M,) Pearson correlation of each column of (n, M) with its twin; NaN where one is constant."""
    one, other = (part - part.mean(axis=0, dtype=np.float64) for part in (one, other))
    product = np.sqrt(np.square(one).sum(axis=0) * np.square(other).sum(axis=0))
    return np.divide((one * other).sum(axis=0), product, out=np.full(len(product), np.nan), where=product > 0)


def _usable(*samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows that are finite in all samples, and of the columns that are finite anywhere."""
    finite = np.logical_and.reduce([np.isfinite(sample) for sample in samples])
    columns = finite.any(axis=0)
    return np.flatnonzero(finite[:, columns].all(axis=1)), np.flatnonzero(columns)


def _choose(available: int, rows: int, random: np.random.Generator) -> np.ndarray:
    """Ascending positions of at most `rows` rows."""
    if available < 3:
        raise ValueError(f"{available} rows are too few to correlate scores; 3 are the least")
    return np.sort(random.choice(available, size=min(rows, available), replace=False))


def _read(source: BlockSource, positions: np.ndarray) -> np.ndarray:
    """(n, M) float64 values of these ascending rows, in as few blocks as there are runs of neighbours."""
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return np.concatenate([np.asarray(source[run[0] : run[-1] + 1], dtype=np.float64) for run in runs])
