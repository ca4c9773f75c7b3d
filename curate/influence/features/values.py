"""Number types of stored values: float32, float16, or int8 with one scale per row, and what the narrower ones lose.

A narrow type must never change a value silently: what float16 cannot hold is an error that names the row, and the
cosine between the given and the stored row is measured at every write. An excluded row is NaN, also in int8, where its
scale is NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from curate.influence.features.identity import Dtype, FeatureStoreError

INT8_STEPS = 127


@dataclass(frozen=True)
class Fidelity:
    """Cosine between given and stored rows: mean and worst over `rows` rows (1 is lossless)."""

    rows: int
    mean: float
    worst: float


def check_values(
    keys: Sequence[str], values: np.ndarray, excluded: Collection[str], empty_columns: Sequence[int], dtype: Dtype
) -> None:
    """Raises `FeatureStoreError` naming the first row whose values `dtype` cannot hold, or that is NaN without a
    reason.

    values: (n, w) float32; excluded rows and `empty_columns` must be NaN, all else finite.
    """
    expected_nan = np.zeros(values.shape, dtype=bool)
    expected_nan[[position for position, key in enumerate(keys) if key in excluded]] = True
    expected_nan[:, list(empty_columns)] = True
    limit = np.finfo(np.float16 if dtype == "float16" else np.float32).max
    wrong = np.where(expected_nan, ~np.isnan(values), ~(np.abs(values) <= limit))
    if not wrong.any():
        return
    row, column = (int(index) for index in np.argwhere(wrong)[0])
    value = values[row, column]
    if expected_nan[row, column]:
        raise FeatureStoreError(
            f"row {keys[row]} is excluded, or its column {column} empty, but holds {value}; excluded values are NaN"
        )
    remedy = f"{dtype} holds up to {limit:g}; store float32" if np.isfinite(value) else "exclude the row with a reason"
    raise FeatureStoreError(f"row {keys[row]} has {value} in column {column}: {remedy}")


def encode(values: np.ndarray, dtype: Dtype) -> tuple[np.ndarray, np.ndarray]:
    """(n, w) checked float32 -> stored (n, w) of `dtype` and (n,) float32 scales (1 unless int8)."""
    if dtype != "int8":
        return values.astype(dtype), np.ones(len(values), dtype=np.float32)
    given = np.nan_to_num(values, nan=0.0)
    scales = (np.abs(given).max(axis=1, initial=0.0) / INT8_STEPS).astype(np.float32)
    steps = np.divide(given, scales[:, None], out=np.zeros_like(given), where=scales[:, None] > 0)
    scales[np.isnan(values).all(axis=1)] = np.nan
    return np.clip(np.rint(steps), -INT8_STEPS, INT8_STEPS).astype(np.int8), scales


def decode(stored: np.ndarray, scales: np.ndarray, empty_columns: Sequence[int], out: np.ndarray) -> None:
    """Stored (n, w) values into `out`, (n, w) float32, in one pass; the inverse of `encode` up to rounding."""
    np.copyto(out, stored)
    if stored.dtype == np.int8:
        out *= scales[:, None]
        out[:, list(empty_columns)] = np.nan


def measure(values: np.ndarray, restored: np.ndarray) -> Fidelity:
    """Fidelity over the rows that are not NaN throughout; an all-zero row is kept as it is, which counts as 1."""
    kept = ~np.isnan(values).all(axis=1)
    given, back = (np.nan_to_num(part[kept], nan=0.0).astype(np.float64) for part in (values, restored))
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(back, axis=1)
    dots = np.einsum("nw,nw->n", given, back)
    same = (given == back).all(axis=1)
    cosines = np.where(same, 1.0, np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))
    return Fidelity(len(cosines), float(cosines.mean()) if len(cosines) else 1.0, float(cosines.min(initial=1.0)))
