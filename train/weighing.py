"""From the losses of one optimizer step to the coefficient of each example's loss.

Three weights may meet: by loss (reweighting), by cluster size (coreset) and by domain (scalarization). They are
multiplied and brought to mean 1 once, then one reduction turns them into coefficients; nowhere else is a loss scaled
(coreset spec, sections 7 to 9). Scalarization alone has mean 1 in expectation and is left as it is. Pure arrays, a few
hundred numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.reweighting import Anneal, ReweightingSchedule, combined_weights, loss_weights
from train.settings import CoresetSettings, ReweightingSettings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GatherSet:
    """Examples whose losses are compared. tokens: (n,) label tokens; domains: (n,) index; cluster_sizes: (n,)."""

    tokens: NDArray[np.int64]
    domains: NDArray[np.int64]
    cluster_sizes: NDArray[np.int64]

    def part(self, positions: NDArray[np.int64]) -> GatherSet:
        return GatherSet(self.tokens[positions], self.domains[positions], self.cluster_sizes[positions])


class Weigher:
    """Weights of a step's examples. domain_weights(step) -> (K,) is the mixture's scalarization, all 1 without it."""

    def __init__(
        self, reweighting: ReweightingSettings | None, coreset: CoresetSettings | None, total_steps: int
    ) -> None:
        self.settings = reweighting
        self.cluster_exponent = coreset.cluster_exponent if coreset else 0.0
        self.schedule = reweighting_schedule(reweighting, total_steps) if reweighting else None

    def temperature(self, step: int) -> float:
        """Softmax temperature; infinity where losses do not matter."""
        if self.schedule is None or self.settings is None or self.settings.strategy == "uniform":
            return np.inf
        return self.schedule(step)

    def needs_losses(self, step: int) -> bool:
        return bool(np.isfinite(self.temperature(step)))

    def weights(self, step: int, examples: GatherSet, domain_weights: Array, losses: Array | None) -> Array:
        """(n,) weights. losses: (n,) when `needs_losses`; a row whose loss is not finite gets 0."""
        valid = examples.tokens > 0
        if losses is not None:
            valid &= np.isfinite(losses)
        scalarization = domain_weights[examples.domains]
        factors: list[Array] = [scalarization]
        if self.cluster_exponent:
            factors.append(examples.cluster_sizes.astype(float) ** self.cluster_exponent)
        if losses is not None and self.settings is not None:
            sources = examples.domains if self.settings.min_max == "source" else None
            by_loss = loss_weights(
                np.where(valid, losses, np.nan), self.settings.strategy, self.temperature(step), self.settings.delta,
                self.settings.cap, sources,
            )  # fmt: skip
            factors.append(by_loss**self.settings.exponent)
        if len(factors) == 1:
            return np.where(valid, scalarization, 0.0)
        return combined_weights(factors, self.settings.cap if self.settings else None, valid)


def reweighting_schedule(settings: ReweightingSettings, total_steps: int) -> ReweightingSchedule:
    """The settings' temperature as a function of the step."""
    anneal = None
    if settings.anneal:
        first, last = round(settings.anneal.first * total_steps), round(settings.anneal.last * total_steps)
        anneal = Anneal(settings.anneal.start, settings.anneal.end, first, max(last, first + 1))
    return ReweightingSchedule(total_steps, settings.temperature, settings.burn_in, anneal=anneal)


def loss_coefficients(weights: Array, tokens: NDArray[np.int64], reduction: str) -> Array:
    """(n,) factors c with loss = sum of c_i * (mean token loss of example i).

    Source: reweighting spec, section 4; S_i = tokens_i * l_i. An example of weight 0 counts in no divisor of "sample".
    """
    if reduction == "sample":
        return weights / max(int(np.count_nonzero(weights)), 1)
    used = np.where(weights > 0, tokens, 0)
    divisor = float(used.sum() if reduction == "token" else (weights * used).sum())
    return weights * used / max(divisor, 1.0)
