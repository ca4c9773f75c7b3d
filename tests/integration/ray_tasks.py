"""Tasks for the tests of the Ray executor; nodes import them from here. Each leaves a line for every attempt."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """how: what the task does; until: the attempt that succeeds."""

    log: Path
    how: str
    until: int = 1


def work(task: Task) -> int:
    """The number of the attempt that succeeded."""
    with task.log.open("a") as log:
        log.write(f"{os.getpid()}\n")
    attempt = len(task.log.read_text().splitlines())
    if attempt >= task.until:
        return attempt
    if task.how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.how == "loses its mount":
        raise OSError(errno.ESTALE, "Stale file handle")
    raise ValueError(f"row r7 of {task.log.name} is wrong; mend it")
