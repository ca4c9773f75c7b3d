"""Slow, obvious twin of train.reweighting.loss_weights: one example at a time, as the formulas are printed."""

import math


def loss_weights(losses: list[float], strategy: str, r: float, delta: float, cap: float | None) -> list[float]:
    """Mean-1 weights for finite losses and finite r > 0."""
    low, high = min(losses), max(losses)
    spread, middle = max(high - low, 1e-6), (high + low) / 2
    scores = []
    for loss in losses:
        h = 2 * delta * (loss - middle) / spread
        if strategy == "linupper":
            scores.append(min(h + delta, delta))
        elif strategy == "quadratic":
            scores.append(1 - h**2 / delta**2)
        elif strategy == "extremes":
            scores.append(abs(h))
        elif strategy == "linear":
            scores.append(0.5 * h + 0.5 * delta)
        else:
            return [1.0] * len(losses)
    mass = [math.exp(s / r - max(scores) / r) for s in scores]
    weights = [len(losses) * m / sum(mass) for m in mass]
    return weights if cap is None else cap_weights(weights, cap)


def cap_weights(weights: list[float], cap: float) -> list[float]:
    """Cap one weight at a time, the largest first, and rescale the others after each. Needs positive weights."""
    capped: set[int] = set()
    while True:
        free = [i for i in range(len(weights)) if i not in capped]
        if not free:
            return [cap] * len(weights)
        scale = (len(weights) - cap * len(capped)) / sum(weights[i] for i in free)
        largest = max(free, key=lambda i: weights[i])
        if scale * weights[largest] <= cap:
            return [cap if i in capped else scale * w for i, w in enumerate(weights)]
        capped.add(largest)
