"""A connection to a Ray cluster for as long as one stage needs it: an existing one by its address, or one of this
machine's own that ends with it.

It is given back after each stage, so that the stages' processes, which are started elsewhere, find memory and GPUs
free. Cost: one to two seconds for an existing cluster, five to ten to start one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.execution import WorkerRequest
from flows.process import ProcessError

LOCAL_OBJECTS = 256 * 2**20  # bytes; tasks pass names of rows and counts, never values
NAMESPACE = "equipoise"
LOOK_S = 10
# the tasks' own environment on every node
WORKERS = {
    "TOKENIZERS_PARALLELISM": "false",
    # a worker that is used again may get another GPU than the one its CUDA was opened with: it picks by number
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
}


class ClusterError(ProcessError):
    """A cluster that cannot be reached, cannot do the work, or lost it too often; the message says what to do."""


@dataclass(frozen=True)
class Connection:
    """ray: the module; cpus, gpus: what one worker gets."""

    ray: Any
    cpus: float
    gpus: float

    def slots(self) -> int:
        """Workers that fit on the nodes that are there now."""
        fits = 0
        for node in _alive(self.ray):
            room = [node.get(name, 0.0) // need for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need]
            fits += int(min(room))
        return fits

    @property
    def needs(self) -> str:
        return f"{self.cpus:g} CPU(s)" + (f" and {self.gpus:g} GPU(s)" if self.gpus else "")


@contextlib.contextmanager
def connected(
    address: str | None, request: WorkerRequest, retries: int, environment: dict[str, str]
) -> Iterator[Connection]:
    """address: `host:port` of a cluster; None starts one on this machine. retries: how often a task that lost its
    worker is run again; environment: more variables of the workers.

    Raises `ClusterError` when the cluster is not there, or no node of it can hold one worker.
    """
    # read by Ray when it is imported; without the second a task that always runs out of memory is tried for ever
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(retries))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address:
        _look(address)
    if ray.is_initialized():
        raise ClusterError("this process is connected to a Ray cluster already; end that connection first")
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": LOCAL_OBJECTS}
    try:
        ray.init(
            # not None, with which Ray looks for a cluster that somebody has left behind
            address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKERS | environment},
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClusterError(f"execution.engine ray: {where} cannot be reached: {reason}") from error
    try:
        gpus = request.gpus if request.gpus is not None else float(_total(ray, "GPU") > 0)
        connection = Connection(ray, request.cpus, gpus)
        if not connection.slots():
            raise ClusterError(
                f"no node of the Ray cluster can hold a worker of {connection.needs} (nodes: {_describe(ray)}); lower "
                "execution.requests, or add a node before the run"
            )
        yield connection
    finally:
        ray.shutdown()


def _look(address: str) -> None:
    """Ray itself would try for minutes. Raises `ClusterError` when nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=LOOK_S):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"execution.address {address}: no Ray cluster answers there ({error}); give host:port as `ray start` "
            "prints it"
        ) from error


def _alive(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _total(ray: Any, resource: str) -> float:
    return sum(node.get(resource, 0.0) for node in _alive(ray))


def _describe(ray: Any) -> str:
    return "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in _alive(ray))
