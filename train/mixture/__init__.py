"""How often each domain is drawn: temperature probabilities, Cooldown, the epoch cap and the exact sampler."""

from train.mixture.build import build_sampler, epochs_note
from train.mixture.clusters import cluster_domains
from train.mixture.probabilities import (
    MixtureError,
    scalarization_weights,
    temperature_probabilities,
    unimax_probabilities,
    variance_factor,
)
from train.mixture.rounding import carry_counts, systematic_counts
from train.mixture.sampler import MixtureSampler
from train.mixture.schedules import ConstantSchedule, CooldownSchedule, LinearSchedule, Schedule, StepSchedule
from train.mixture.segments import Segment, expected_epochs, schedule_taus, segment_probabilities
from train.waterfill import water_fill

__all__ = [
    "ConstantSchedule",
    "CooldownSchedule",
    "LinearSchedule",
    "MixtureError",
    "MixtureSampler",
    "Schedule",
    "Segment",
    "StepSchedule",
    "build_sampler",
    "carry_counts",
    "cluster_domains",
    "epochs_note",
    "expected_epochs",
    "scalarization_weights",
    "schedule_taus",
    "segment_probabilities",
    "systematic_counts",
    "temperature_probabilities",
    "unimax_probabilities",
    "variance_factor",
    "water_fill",
]
