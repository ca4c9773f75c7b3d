"""Cleaning on a cluster: the shards of a pass, in about four tasks per worker, as `clean_pool` asks for it.

Filters that judge rows alone and the sketches of the pool-wide ones (duplicates) run on the nodes; what a pool-wide
filter decides, and filters with a model, stay with the process that runs the stage. Connects when the first pass has
more than one shard, so a small pool costs no start of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from curate.cleaning.contract import Reference
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.shards import Done, Task, run_tasks
from flows.cluster.executor import RayExecutor, cut
from flows.cluster.worker import check_node


@dataclass(frozen=True)
class Chunk:
    settings: CleaningSettings
    references: Sequence[Reference]
    tasks: Sequence[Task]
    code: list[str]
    digest: str


class ClusterSpread:
    """A `curate.cleaning.shards.Spread`. executor: makes the connection; code: sources whose digest the nodes need."""

    def __init__(self, executor: Callable[[], RayExecutor], code: list[str], digest: str) -> None:
        self._make, self._code, self._digest = executor, code, digest
        self._stack = ExitStack()
        self._executor: RayExecutor | None = None

    def __enter__(self) -> ClusterSpread:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(
        self, settings: CleaningSettings, references: Sequence[Reference], tasks: Sequence[Task]
    ) -> Iterable[Done]:
        if len(tasks) < 2:
            return run_tasks(settings, references, tasks)
        if self._executor is None:
            self._executor = self._stack.enter_context(self._make())
        parts = cut(tasks, self._executor.slots)
        chunks = [Chunk(settings, references, part, self._code, self._digest) for part in parts]
        return [done for part in self._executor.map("cleaning", clean_here, chunks) for done in part]


def clean_here(chunk: Chunk) -> list[Done]:
    check_node(Path(chunk.tasks[0].folder), chunk.code, chunk.digest)
    return list(run_tasks(chunk.settings, chunk.references, chunk.tasks))
