"""Constraints by enumeration: a set of picks is allowed when some subset of the rows contains it and breaks nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np


@dataclass
class Demands:
    """One small selection problem. weight: (N,) of each row; limits: source -> (min, max), ints rows, floats shares."""

    capacity: int
    weight: list[int]
    in_tokens: bool = False
    include: list[int] = field(default_factory=list)
    exclude: list[int] = field(default_factory=list)
    sources: list[str] | None = None
    limits: dict[str, tuple] = field(default_factory=dict)
    clusters: list[int] | None = None
    cap: int | None = None


def breaks(rows, demands):
    """Whether a finished selection of these rows breaks a demand (the number of rows apart)."""
    if sum(demands.weight[row] for row in rows) > demands.capacity:
        return True
    if not set(demands.include) <= set(rows) or set(demands.exclude) & set(rows):
        return True
    for name, (least, most) in demands.limits.items():
        mine = [row for row in rows if demands.sources[row] == name]
        tokens = sum(demands.weight[row] for row in mine)
        for bound, sign in ((least, 1), (most, -1)):
            if bound is None:
                continue
            if isinstance(bound, int):
                amount, needed = len(mine), bound
            else:
                exact = Fraction(str(bound)) * demands.capacity
                amount, needed = tokens, math.ceil(exact) if sign > 0 else math.floor(exact)
            if sign * amount < sign * needed:
                return True
    if demands.cap is not None:
        counts = {}
        for row in rows:
            counts[demands.clusters[row]] = counts.get(demands.clusters[row], 0) + 1
        if max(counts.values(), default=0) > demands.cap:
            return True
    return False


def completable(demands):
    """A function from a set of rows (a bit mask) to whether some selection that breaks nothing contains them."""
    n = len(demands.weight)
    whole = np.array([m for m in range(2**n) if not breaks([r for r in range(n) if m >> r & 1], demands)], dtype=int)
    return lambda mask: bool(((whole & mask) == mask).any())


def naive_constrained_bids(Z, size, demands):
    """BIDS on the rows that keep the picks completable, after the rows of include; None if there is no selection."""
    possible = completable(demands)
    order, total = [], np.zeros(Z.shape[1])
    if not possible(0):
        return None
    while len(order) < size:
        free = [
            row for row in range(len(Z)) if row not in order and possible(sum(1 << picked for picked in [*order, row]))
        ]
        waiting = [row for row in sorted(demands.include) if row not in order]
        if waiting:
            row = waiting[0]
        elif free:
            gaps = Z - (total / len(order) if order else total)
            row = max(free, key=lambda r: (gaps[r].max(), -r))
        else:
            break
        order.append(row)
        total = total + Z[row]
    return order if demands.in_tokens or len(order) == size else None


def greedy_in_order(ranking, size, demands):
    """The same for a method that goes down a fixed ranking."""
    possible = completable(demands)
    if not possible(0):
        return None
    order = []
    for row in [*sorted(demands.include), *ranking]:
        if len(order) < size and row not in order and possible(sum(1 << picked for picked in [*order, row])):
            order.append(row)
    return order if demands.in_tokens or len(order) == size else None
