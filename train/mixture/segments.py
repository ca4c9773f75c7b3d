"""The mixture of a whole run: one probability vector per stretch of equal temperature, with the epoch cap applied.

The cap is filled from the last segment to the first, so the final mixture is disturbed last and no domain disappears at
the end of training. Everything is known before the first step, so a run can be refused or explained before it starts.
Cost: one water filling per segment; a linear schedule has one segment per step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.mixture.probabilities import MixtureError, checked_sizes, temperature_probabilities
from train.mixture.schedules import Schedule
from train.waterfill import FEASIBILITY_TOLERANCE, water_fill


@dataclass(frozen=True)
class Segment:
    """Steps start <= t < stop, drawn with the same probabilities (K,)."""

    start: int
    stop: int
    tau: float
    probabilities: NDArray[np.float64]


def schedule_taus(schedule: Schedule, total_steps: int) -> NDArray[np.float64]:
    """Temperature of every planned step, (T,) float64; progress of step t is t / T."""
    if isinstance(total_steps, bool) or not isinstance(total_steps, int | np.integer) or total_steps < 1:
        raise MixtureError(f"total_steps is {total_steps!r}; a schedule needs the planned number of optimizer steps")
    return np.array([schedule(t / total_steps) for t in range(total_steps)], dtype=np.float64)


def segment_probabilities(
    sizes: ArrayLike,
    taus: ArrayLike,
    pool_size: int,
    max_epochs: float | None = None,
    measures: ArrayLike | None = None,
) -> tuple[Segment, ...]:
    """Group steps of equal temperature and cap every domain at `max_epochs` passes over the whole run.

    Source: spec "mixture", section 3. sizes: (K,) examples. taus: (T,) one per step. pool_size: examples per step.
    measures: (K,) sizes that the temperature acts on, if not the examples.
    Returns segments in time order. Raises MixtureError when `max_epochs` times all examples is fewer than the draws,
    naming the smallest value that works.
    """
    array = checked_sizes(sizes)
    steps = np.asarray(taus, dtype=np.float64)
    changes = np.flatnonzero(steps[1:] != steps[:-1])  # by comparison: a difference of two infinities is no number
    edges = [0, *(changes + 1).tolist(), steps.size]
    spans = list(pairwise(edges))
    measured = array if measures is None else checked_sizes(measures)
    wanted = {tau: temperature_probabilities(measured, tau) for tau in dict.fromkeys(steps.tolist())}
    uncapped = [Segment(a, b, float(steps[a]), wanted[float(steps[a])]) for a, b in spans]
    return cap_segments(array, uncapped, pool_size, max_epochs)


def cap_segments(
    sizes: NDArray[np.float64], segments: Sequence[Segment], pool_size: int, max_epochs: float | None
) -> tuple[Segment, ...]:
    """Apply the epoch cap to given segments, last first. Arguments and errors as `segment_probabilities`."""
    if max_epochs is None:
        return tuple(segments)
    if not max_epochs > 0:
        raise MixtureError(f"max_epochs is {max_epochs}; it must be above 0, or none for no cap")
    total = pool_size * sum(s.stop - s.start for s in segments)
    if total - max_epochs * sizes.sum() > FEASIBILITY_TOLERANCE * total:
        raise MixtureError(
            f"max_epochs {max_epochs:g} is infeasible: {total} draws from {sizes.sum():g} examples need at least "
            f"{total / sizes.sum():.6g}; raise max_epochs or shorten the run"
        )
    allowance = max_epochs * sizes
    capped = []
    for s in reversed(segments):
        x = water_fill(s.probabilities, allowance, pool_size * (s.stop - s.start))
        allowance = np.maximum(allowance - x, 0.0)
        capped.append(Segment(s.start, s.stop, s.tau, x / x.sum()))
    return tuple(reversed(capped))


def expected_epochs(
    sizes: ArrayLike, taus: ArrayLike, pool_size: int, max_epochs: float | None = None
) -> NDArray[np.float64]:
    """Passes over each domain that the run will make, E_i = sum_t B p(i; tau_t) / |D_i|; (K,) float64.

    An empty domain gets 0. Arguments and errors as `segment_probabilities`.
    """
    return segment_epochs(sizes, segment_probabilities(sizes, taus, pool_size, max_epochs), pool_size)


def segment_epochs(sizes: ArrayLike, segments: Sequence[Segment], pool_size: int) -> NDArray[np.float64]:
    """`expected_epochs` of segments already made."""
    array = checked_sizes(sizes)
    draws = np.zeros_like(array)
    for s in segments:
        draws += pool_size * (s.stop - s.start) * s.probabilities
    return np.divide(draws, array, out=np.zeros_like(draws), where=array > 0)
