"""Mean and deviation of a column, the one place where they are computed, so that every method sees the same bits.

Up to `PANEL_ROWS` values: two passes (the mean, then the mean of what it leaves), and the deviation around that mean,
ddof 1. A longer column is the same per panel of rows, and the panels are joined in row order by the exact update of
Chan, Golub and LeVeque (1979); so a matrix in memory and its shards on disk give the same bits in a single pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curate.selection.columns import row_panels


@dataclass(frozen=True, slots=True)
class Moments:
    """Of `count` values: their mean, the sum of squares around it, the lowest and the highest."""

    count: int
    mean: float
    squares: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of a contiguous float64 vector that fits into a panel."""
        if not values.size:
            return cls(0, math.nan, math.nan, math.inf, -math.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.mean()
            residual = values - mean
            mean += residual.mean()
            np.subtract(values, mean, out=residual)
            squares = np.square(residual, out=residual).sum()
        return cls(values.size, float(mean), float(squares), float(values.min()), float(values.max()))

    def joined(self, after: Moments) -> Moments:
        """Of these values and those of the next panel."""
        if not self.count or not after.count:
            return self if self.count else after
        count, gap = self.count + after.count, after.mean - self.mean
        return Moments(
            count,
            self.mean + gap * (after.count / count),
            self.squares + after.squares + gap * gap * (self.count * after.count / count),
            min(self.low, after.low),
            max(self.high, after.high),
        )

    @property
    def std(self) -> float:
        """Deviation with ddof 1; 0 if constant, NaN of fewer than 2 values."""
        if self.count < 2:
            return math.nan
        # a constant such as 0.1 does not always equal its computed mean, so equality is asked of the values
        return 0.0 if self.low == self.high else math.sqrt(self.squares / (self.count - 1))


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean and ddof-1 deviation of a contiguous float64 vector; deviation 0 if constant, NaN if shorter than 2."""
    whole = Moments.of(values[:0])
    for start, stop in row_panels(values.size):
        whole = whole.joined(Moments.of(values[start:stop]))
    return whole.mean, whole.std
