"""Slow, obvious twins of train.mixture: plain Python loops, no vectorisation."""

import math


def temperature_probabilities(sizes: list[float], tau: float) -> list[float]:
    powers = [0.0 if size == 0 else size ** (1 / tau) for size in sizes]
    return [p / sum(powers) for p in powers]


def water_fill(weights: list[float], allowances: list[float], draws: float) -> list[float]:
    """Find the water level by bisection: sum_i min(level * q_i, a_i) = draws. Needs positive weights."""
    low, high = 0.0, max(max(allowances), draws) / min(weights) + 1.0
    for _ in range(300):
        level = (low + high) / 2
        if sum(min(level * q, a) for q, a in zip(weights, allowances, strict=True)) < draws:
            low = level
        else:
            high = level
    return [min(high * q, a) for q, a in zip(weights, allowances, strict=True)]


def unimax(sizes: list[float], max_epochs: float, draws: float) -> list[float]:
    """The published procedure: domains by ascending size, each gets min(rest / domains left, its allowance)."""
    got, rest = [0.0] * len(sizes), draws
    order = sorted(range(len(sizes)), key=lambda k: sizes[k])
    for done, k in enumerate(order):
        got[k] = min(rest / (len(sizes) - done), max_epochs * sizes[k])
        rest -= got[k]
    return [x / sum(got) for x in got]


def systematic_counts(p: list[float], pool_size: int, u: float) -> list[int]:
    """Count the marks u, u + 1, u + 2, ... that fall into each domain's stretch [c_{k-1}, c_k)."""
    counts, start = [], 0.0
    for k in range(len(p)):
        stop = pool_size if k == len(p) - 1 else start + pool_size * p[k]
        counts.append(sum(1 for j in range(pool_size) if start <= u + j < stop))
        start = stop
    assert sum(counts) == pool_size and math.isfinite(start)
    return counts


def carry_counts(p_of_steps: list[list[float]], pool_size: int) -> list[list[int]]:
    """Option carry of the spec, unit by unit."""
    owed, plan = [0.0] * len(p_of_steps[0]), []
    for p in p_of_steps:
        owed = [d + pool_size * share for d, share in zip(owed, p, strict=True)]
        n = [max(math.floor(d), 0) for d in owed]
        while sum(n) < pool_size:
            n[max(range(len(n)), key=lambda k: (owed[k] - n[k], -k))] += 1
        while sum(n) > pool_size:
            n[min((k for k in range(len(n)) if n[k] > 0), key=lambda k: (owed[k] - n[k], k))] -= 1
        owed = [d - k for d, k in zip(owed, n, strict=True)]
        plan.append(n)
    return plan
