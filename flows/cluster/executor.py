"""Map a function over tasks on a Ray cluster, each as a Prefect task run under `prefect-ray`.

A task is a worker's share of a stage (shards, a model), never a row: a task run costs some 20 ms. A task whose worker
or node is lost is run again elsewhere by Ray; one that meets a passing fault (a mount that went away, a connection that
broke) is tried again by Prefect; any other error ends the stage at once, with its own message. Every task must
therefore give the same result, and leave the same files, however often it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cluster.connection import ClusterError, Connection, connected
from flows.execution import ExecutionSettings, WorkerRequest, retry_condition
from flows.secrets import lent

Asked = TypeVar("Asked")
Result = TypeVar("Result")
LOOK_S = 10.0
TASKS_PER_WORKER = 4  # over a whole stage: fewer, and the last one is waited for; more, and each has less to do


def cut(shards: Sequence[Asked], workers: int, rounds: int = 1) -> list[Sequence[Asked]]:
    """The shards in portions, one a task. rounds: how often as many shards are handed out in the stage."""
    size = max(1, math.ceil(len(shards) * rounds / (workers * TASKS_PER_WORKER)))
    return [shards[i : i + size] for i in range(0, len(shards), size)]


class RayExecutor:
    """Open it with `with`; it holds its connection, and the workers their models, until it is closed."""

    def __init__(self, execution: ExecutionSettings, request: WorkerRequest) -> None:
        self.execution, self.request = execution, request
        self._stack = ExitStack()

    def __enter__(self) -> RayExecutor:
        with ExitStack() as stack:
            api = _reachable_api(stack)
            stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
            retries = self.execution.retries
            self.connection: Connection = stack.enter_context(
                connected(self.execution.address, self.request, retries, {"PREFECT_API_URL": api})
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def slots(self) -> int:
        """Workers that the cluster holds at once, for cutting the work into tasks."""
        return self.connection.slots()

    @property
    def threads(self) -> int:
        """That a worker may compute with."""
        return max(1, int(self.connection.cpus))

    def map(
        self,
        name: str,
        function: Callable[[Asked], Result],
        tasks: Sequence[Asked],
        on_done: Callable[[Result], None] = lambda result: None,
    ) -> list[Result]:
        """The function's results in the order of the tasks. function: importable on the nodes; on_done: told of every
        result as it comes. Raises what a task raised, or `ClusterError` when a task was lost too often."""
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options

        retries = self.execution.retries
        each = one.with_options(
            name=name,
            task_run_name=f"{name} {{number}}",
            retries=retries,
            retry_delay_seconds=self.execution.retry_delays() or 0,
        )
        options = {
            "num_cpus": self.connection.cpus,
            "num_gpus": self.connection.gpus,
            "max_retries": retries,
            "max_calls": 0,  # a worker with a GPU would otherwise end, and its model with it, after every task
        }

        ray, secrets = self.connection.ray, self.execution.secrets
        results: dict[int, Result] = {}
        running: dict[Any, tuple[int, Any]] = {}  # Ray's reference -> (position, Prefect's future)
        waiting = iter(enumerate(tasks))
        with RayTaskRunner() as runner, remote_options(**options):  # it finds our connection
            try:
                while len(results) < len(tasks):
                    # as many as fit and no more: Ray keeps no order among those that wait, and a worker keeps the model
                    # of the task before
                    for position, asked in islice(waiting, max(0, self.connection.slots() - len(running))):
                        arguments = {"number": position + 1, "function": function, "task": asked, "secrets": secrets}
                        future = runner.submit(each, arguments)
                        running[future.wrapped_future] = position, future
                    for reference in ray.wait(list(running), num_returns=1, timeout=LOOK_S)[0]:
                        position, future = running.pop(reference)
                        results[position] = self._result(name, reference, future)
                        on_done(results[position])
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)
        return [results[position] for position in range(len(tasks))]

    def _result(self, name: str, reference: Any, future: Any) -> Any:
        """Raises what the task raised, or `ClusterError` for one that Ray has given up."""
        ray = self.connection.ray
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            raise ClusterError(self._lost(name, error)) from error
        return future.result()

    def _lost(self, name: str, error: Exception) -> str:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if isinstance(error, self.connection.ray.exceptions.RayTaskError):
            return (
                f"{name}: a task could not be started on a node: {lines[-1][:300]}. Install the same version of "
                "Equipoise and of its packages on all nodes"
            )
        return (
            f"{name}: a task was lost on the Ray cluster {self.execution.retries + 1} time(s), often for want of "
            "memory on a node; what was finished is kept, and the same command goes on there. Ray says: "
            + lines[0][:300]
        )


@task(cache_policy=NO_CACHE, retry_condition_fn=retry_condition, persist_result=False)
def one(number: int, function: Callable[[Any], Any], task: Any, secrets: dict[str, str]) -> Any:
    """One task of a map, on whatever node, which fetches the secrets that the stage was lent by their names."""
    with lent(secrets):
        return function(task)


def _reachable_api(stack: ExitStack) -> str:
    """The Prefect server that the tasks report to: the configured one, or the temporary one of this process."""
    configured = PREFECT_API_URL.value()
    if configured:
        return str(configured)
    return str(stack.enter_context(get_client(sync_client=True)).api_url)
