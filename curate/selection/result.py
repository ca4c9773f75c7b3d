"""The answer every selection method gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_TARGET = -1


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen rows, best first, with the reason for each.

    order: (B,) int64 row indices into `scores`. target: (B,) int64 column index that each row was taken for
    (`NO_TARGET` where none was, as in a random subset). utility: (B,) float64 value of the method's own criterion at
    that pick (NaN where it has none). excluded_rows, dropped_columns: what the method could not use, by index.
    """

    order: np.ndarray
    target: np.ndarray
    utility: np.ndarray
    excluded_rows: tuple[int, ...] = ()
    dropped_columns: tuple[int, ...] = ()
