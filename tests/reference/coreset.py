"""Slow, obvious twins of train.coreset: definitions written out with loops."""

import math
from itertools import combinations


def quotas(sizes: list[int], budget: int) -> list[int]:
    """Proportional shares rounded down; then one at a time to the smallest base that has room and has had no extra."""
    if budget >= sum(sizes):
        return list(sizes)
    base = [n * budget // sum(sizes) for n in sizes]
    extra = [0] * len(sizes)
    while sum(base) + sum(extra) < budget:
        q = min((q for q in range(len(sizes)) if not extra[q] and base[q] < sizes[q]), key=lambda q: (base[q], q))
        extra[q] = 1
    return [b + e for b, e in zip(base, extra, strict=True)]


def similarities(rows: list[list[float]]) -> list[list[float]]:
    distance = [[sum(abs(a - b) for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    largest = max(map(max, distance))
    return [[largest - d for d in line] for line in distance]


def objective(similarity: list[list[float]], picks: tuple[int, ...]) -> float:
    """sum_i of the similarity of row i to its most similar pick."""
    return sum(max((line[p] for p in picks), default=0.0) for line in similarity)


def facility_location(rows: list[list[float]], budget: int) -> tuple[list[int], list[float], list[int]]:
    """Greedy by recomputing the whole objective for every candidate; lowest row among gains tied within 1e-9."""
    similarity = similarities(rows)
    picks: list[int] = []
    gains: list[float] = []
    for _ in range(min(budget, len(rows))):
        now = objective(similarity, tuple(picks))
        gain = {c: objective(similarity, (*picks, c)) - now for c in range(len(rows)) if c not in picks}
        best = max(gain.values())
        pick = min(c for c, g in gain.items() if g >= best - 1e-9 * max(1, abs(best)))
        picks.append(pick)
        gains.append(gain[pick])
    if not picks:
        return [], [], []
    sizes = [0] * len(picks)
    for i, line in enumerate(similarity):
        best_similarity = max(line[p] for p in picks)
        owner = picks.index(i) if i in picks else next(j for j, p in enumerate(picks) if line[p] >= best_similarity)
        sizes[owner] += 1
    return picks, gains, sizes


def best_objective(rows: list[list[float]], budget: int) -> float:
    """Optimum over all subsets."""
    similarity = similarities(rows)
    return max(objective(similarity, picks) for picks in combinations(range(len(rows)), budget))


def one_z(g: float, a: float, c: float, t: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """h(g): what Adam makes of a directional derivative when the history is m = a z, v = c z^2."""
    m = (beta1 * a + (1 - beta1) * g) / (1 - beta1**t)
    v = (beta2 * c + (1 - beta2) * g * g) / (1 - beta2**t)
    return m / math.sqrt(v)


def kept_count(small: int, pool: int, core: int, kappa_numerator: int, kappa_denominator: int) -> int:
    """Kept small-source examples by the rule in words, with an exact fraction for kappa."""
    limit = kappa_numerator * core // kappa_denominator
    if small <= limit:
        return small
    kept, big = limit, pool - small
    while kept < small and big < core - kept:
        kept += 1
    return kept
