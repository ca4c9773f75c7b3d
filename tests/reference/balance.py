"""Oracle for removal rates by group: binomials of whole numbers, Holm by its definition, removal by sorting a list."""

from __future__ import annotations

from fractions import Fraction
from math import comb


def fisher_greater(seen, removed, total, gone):
    ways = sum(comb(seen, k) * comb(total - seen, gone - k) for k in range(removed, min(seen, gone) + 1))
    return float(Fraction(ways, comb(total, gone)))


def holm(p_values):
    """Every p-value against every one that is not larger: the largest of what those need to be rejected."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    needed = {i: min(1.0, p_values[i] * (len(p_values) - rank)) for rank, i in enumerate(order)}
    return [max(needed[j] for j in order[: order.index(i) + 1]) for i in range(len(p_values))]


def equalised(scores, over, groups, ids):
    removed = set()
    for group in set(groups):
        members = [i for i in range(len(ids)) if groups[i] == group]
        # half up, in whole numbers
        wanted = (2 * sum(over) * len(members) + len(over)) // (2 * len(over))
        having = [i for i in members if scores[i] == scores[i]]
        for _ in range(min(wanted, len(having))):
            worst = having[0]
            for i in having:
                if scores[i] > scores[worst] or (scores[i] == scores[worst] and ids[i] < ids[worst]):
                    worst = i
            having.remove(worst)
            removed.add(worst)
    return [i in removed for i in range(len(ids))]
