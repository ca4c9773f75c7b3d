"""BIDS and weakest-first as the paper's pseudo-code reads: the whole matrix is scanned at every pick, O(B * N * M)."""

from __future__ import annotations

import numpy as np


def z_scores(A, ddof=1):
    """Two-pass mean, then z per column, on contiguous float64 columns."""
    columns = []
    for column in np.asarray(A, dtype=np.float64).T:
        column = np.ascontiguousarray(column)
        mean = column.mean()
        mean += (column - mean).mean()
        std = np.sqrt(np.square(column - mean).sum() / (column.size - ddof))
        columns.append((column - mean) / std)
    return np.stack(columns, axis=1)


def naive_bids(Z, budget):
    """(order, target, utility) lists; ties to the lowest row, then the lowest column."""
    Z = np.asarray(Z, dtype=np.float64)
    order, target, utility = [], [], []
    total = np.zeros(Z.shape[1])
    for pick in range(budget):
        gaps = Z - (total / pick if pick else total)
        gaps[order] = -np.inf
        row = int(np.argmax(gaps.max(axis=1)))
        order.append(row)
        target.append(int(np.argmax(gaps[row])))
        utility.append(float(gaps[row].max()))
        total = total + Z[row]
    return order, target, utility


def naive_weakest_first(Z, budget):
    """(order, target): the lowest-mean column's best unselected row."""
    Z = np.array(Z, dtype=np.float64)
    free, order, target = Z.copy(), [], []
    total = np.zeros(Z.shape[1])
    for pick in range(budget):
        column = int(np.argmin(total / pick if pick else total))
        row = int(np.argmax(free[:, column]))
        order.append(row)
        target.append(column)
        total = total + Z[row]
        free[row] = -np.inf
    return order, target
