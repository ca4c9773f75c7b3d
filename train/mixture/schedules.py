"""Temperature as a function of training progress.

Cooldown (arXiv 2410.04579) trains half of the run at a high temperature, so that small domains are learned early, and
half proportionally, so that they are not over-fitted; optimizer and learning rate simply continue. Schedules are frozen
values whose repr is written into the sampler's state, so a resumed run can refuse another schedule.
progress = t / T: t the 0-based counter of attempted optimizer steps, T their planned number. Cost: none.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from train.mixture.probabilities import MixtureError, check_tau


class Schedule(Protocol):
    """A frozen value that maps progress in [0, 1) to a temperature."""

    def __call__(self, progress: float) -> float: ...


@dataclass(frozen=True)
class ConstantSchedule:
    """The same temperature throughout."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_tau(self.tau)

    def __call__(self, progress: float) -> float:
        return float(self.tau)


@dataclass(frozen=True)
class CooldownSchedule:
    """`start` while progress < `switch`, then `end`: the first ceil(T * switch) steps use `start`."""

    start: float = 5.0
    end: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        check_tau(self.start)
        check_tau(self.end)
        if not 0 <= self.switch <= 1:
            raise MixtureError(f"switch is {self.switch}; it must be a share of the run between 0 and 1")

    def __call__(self, progress: float) -> float:
        return float(self.start if progress < self.switch else self.end)


@dataclass(frozen=True)
class LinearSchedule:
    """Temperature moves linearly from `start` to `end` over the run."""

    start: float = 5.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if float("inf") in (check_tau(self.start), check_tau(self.end)):
            raise MixtureError(
                f"a linear schedule from {self.start:g} to {self.end:g} needs finite temperatures; "
                "use steps to reach infinity"
            )

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class StepSchedule:
    """Piecewise constant: `points` are (progress, tau), progress ascending from 0."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        at = [progress for progress, _ in self.points]
        if not at or at[0] != 0 or any(a >= b for a, b in pairwise(at)):
            raise MixtureError(f"points {self.points} must start at progress 0 and ascend")
        for _, tau in self.points:
            check_tau(tau)

    def __call__(self, progress: float) -> float:
        return float([tau for at, tau in self.points if at <= progress][-1])
