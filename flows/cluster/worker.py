"""What runs on a node of the cluster: checks that the node can do the work, and which device it was given."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from flows.process import ProcessError
from flows.store import source_digest


class NodeError(ProcessError):
    """A node that is not set up as the run needs; the message names the node and the remedy."""


def check_node(folder: Path, code: list[str], digest: str) -> None:
    """Raise `NodeError` unless this node sees the run's folder and has the same sources: others would give other values
    under the same name."""
    if not folder.exists():
        raise NodeError(
            f"node {socket.gethostname()} does not see {folder}: the store must be on a file system that all nodes of "
            "the cluster share, under the same path"
        )
    if _digest(tuple(code)) != digest:
        raise NodeError(
            f"node {socket.gethostname()} runs other sources of Equipoise than the one that started the run; install "
            "the same version on all nodes"
        )


@cache
def _digest(code: tuple[str, ...]) -> str:
    return source_digest(code)


def gpus() -> list[int]:
    """Which GPUs Ray gave to this task, as torch counts them; several tasks of one process may get different ones."""
    import ray

    given = [str(each) for each in ray.get_gpu_ids()]
    seen = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return [seen.index(each) if each in seen else int(each) for each in given]


def compute_with(threads: int) -> None:
    """As many threads as CPUs were asked for: sums of more threads differ in the last bits."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def device() -> str:
    """Where this task's model belongs, and from here on torch's own choice.

    Raises `NodeError` for a GPU that torch does not see.
    """
    import torch

    given = gpus()
    if not given:
        return "cpu"
    if not torch.cuda.is_available():
        raise NodeError(
            f"node {socket.gethostname()} offers a GPU that torch does not see; install a CUDA build of torch there, "
            "or set gpus: 0 under execution.requests"
        )
    torch.cuda.set_device(given[0])
    return f"cuda:{given[0]}"
