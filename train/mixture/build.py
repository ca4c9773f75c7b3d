"""The sampler that the settings of a training run ask for, and what to say about it before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from train.mixture.probabilities import MixtureError, unimax_probabilities
from train.mixture.sampler import MixtureSampler
from train.mixture.schedules import ConstantSchedule, CooldownSchedule, LinearSchedule, Schedule, StepSchedule

if TYPE_CHECKING:  # the settings import the coreset, which draws with this package's generators
    from train.settings import MixtureSettings

MANY_EPOCHS = 4  # above this, fine-tuning is likely to memorise a domain


def build_sampler(
    settings: MixtureSettings | None,
    domains: Sequence[str],
    tokens: Sequence[int],
    *,
    pool_size: int,
    total_steps: int,
    seed: int,
) -> MixtureSampler:
    """settings: None draws proportionally, without a cap. domains, tokens: (N,) of each row.

    Raises `MixtureError` where the data does not have what the settings name.
    """
    if settings is None:
        return MixtureSampler(domains, pool_size, total_steps, ConstantSchedule(1.0), seed)
    static = _static(settings, domains, pool_size * total_steps)
    return MixtureSampler(
        domains,
        pool_size,
        total_steps,
        None if static is not None else _schedule(settings),
        seed,
        max_epochs=None if settings.schedule == "unimax" else settings.max_epochs,
        mode=settings.mode,
        static=static,
        rounding=settings.rounding,
        # mode none is a shuffle, in which every row counts alike
        row_sizes=tokens if settings.size_unit == "tokens" and settings.mode != "none" else None,
    )


def _schedule(settings: MixtureSettings) -> Schedule:
    if settings.steps is not None:
        return StepSchedule(tuple((float(at), float(tau)) for at, tau in settings.steps))
    if settings.start == settings.end:
        return ConstantSchedule(settings.start)
    if settings.schedule == "linear":
        return LinearSchedule(settings.start, settings.end)
    return CooldownSchedule(settings.start, settings.end, settings.switch)


def _static(settings: MixtureSettings, domains: Sequence[str], draws: int) -> dict[str, float] | None:
    """Probabilities that do not move, by domain, or None where a temperature does."""
    sizes = Counter(domains)
    if settings.schedule == "unimax":
        assert settings.max_epochs is not None  # checked by the settings
        shares = unimax_probabilities(list(sizes.values()), settings.max_epochs, draws)
        return dict(zip(sizes, shares.tolist(), strict=True))
    if settings.probabilities is None:
        return None
    without_rows = sorted(set(settings.probabilities) - set(sizes))
    if without_rows:
        raise MixtureError(
            f"mixture.probabilities names {', '.join(without_rows)}, of which there are no rows; the domains are "
            f"{', '.join(sorted(sizes))}"
        )
    return {name: settings.probabilities.get(name, 0.0) for name in sizes}


def epochs_note(sampler: MixtureSampler) -> list[str]:
    """One line for every domain that will be repeated more than is good for it."""
    epochs = sampler.expected_epochs()
    return [
        f"domain {sampler.names[k]} ({sampler.sizes[k]} rows) will be seen {epochs[k]:.1f} times; "
        "lower mixture.max_epochs, its share or optimizer.epochs"
        for k in np.argsort(-epochs, kind="stable")
        if epochs[k] > MANY_EPOCHS * (1 + 1e-9)
    ]
