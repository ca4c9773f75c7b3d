"""What a run will cost, before it starts: time, memory and disk of every stage.

Three questions, one file each: how much there is to do (`workload`), how fast this machine does it with this model
(`machine`), and what the stages make of both (`costs`). Expect a factor of two.
"""

from flows.estimate.costs import StageCost, costs
from flows.estimate.machine import Speed, measure
from flows.estimate.whole import Estimate, estimate
from flows.estimate.workload import Workload, measure_workload

__all__ = ["Estimate", "Speed", "StageCost", "Workload", "costs", "estimate", "measure", "measure_workload"]
