"""The whole estimate of a configuration that was checked."""

from __future__ import annotations

from dataclasses import dataclass

from flows.checks import Findings
from flows.config import RunConfig
from flows.estimate.costs import StageCost, costs
from flows.estimate.machine import Speed, measure
from flows.estimate.workload import Workload, measure_workload


@dataclass(frozen=True)
class Estimate:
    """What there is to do, how fast this machine is with it, and what each stage will cost."""

    work: Workload
    speed: Speed
    costs: list[StageCost]


def estimate(config: RunConfig, found: Findings) -> Estimate:
    """found: what the checks have opened, without problems. Seconds, most of them for loading the model."""
    work = measure_workload(config, found)
    speed = measure(config, work.parameters, work.sample)
    shape = found.model.config
    return Estimate(work, speed, costs(config, work, speed, shape.num_hidden_layers, shape.hidden_size))
