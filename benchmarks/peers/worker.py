"""What every runner shares: stay alive with the model loaded, and do one timed round each time the host says so.

    PYTHON run_NAME.py BUNDLE OUT MODE

A round starts at the line `go` on standard input. Answers are lines of JSON on a file that the host has opened, so that
what a library prints does not mix with them: first what the tool is, then one line per round, or an error.
`OUT/scores.npy` holds the scores of the last round.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from workload import Workload, read_workload

THREADS, ANSWERS = "BENCHMARK_THREADS", "BENCHMARK_ANSWERS"  # set by the host


@dataclass(frozen=True)
class Round:
    """scores: (N, M), None where the tool scores nothing; stored: files or folders that hold what the tool keeps of the
    pool's rows; share: rows done, as a share of all, by a tool too slow for all of them (its scores are NaN elsewhere);
    times are scaled by it."""

    scores: np.ndarray | None = None
    stored: list[Path] = field(default_factory=list)
    share: float = 1.0


class Tool(Protocol):
    """One way to get from rows to scores, with its model loaded.

    quantity: the exact quantity that the scores estimate; about: what the tool was asked to do, with its d.
    """

    quantity: Literal["cosine", "dot", "adam cosine"] | None
    about: str

    def run(self, folder: Path) -> Round:
        """From tokens to scores of all pool rows with all targets; `folder` is empty and may be written to."""
        ...


def serve(package: str, make: Callable[[Workload, str], Tool]) -> None:
    """Answer the host until standard input ends. package: the distribution whose version is told."""
    answers = os.fdopen(int(os.environ[ANSWERS]), "w", buffering=1)
    torch.set_num_threads(int(os.environ[THREADS]))

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers)

    try:
        bundle, out = Path(sys.argv[1]), Path(sys.argv[2])
        tool = make(read_workload(bundle), sys.argv[3])
        answer(version=version(package), quantity=tool.quantity, about=tool.about)
        for line in sys.stdin:
            if line.strip() == "go":
                answer(**_round(tool, out))
    except Exception as error:  # told to the host, which goes on with the other tools
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
        sys.exit(1)


def _round(tool: Tool, out: Path) -> dict[str, float]:
    folder = out / "round"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started, used = time.perf_counter(), time.process_time()
    done = tool.run(folder)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    if done.scores is not None:
        np.save(out / "scores.npy", done.scores)
    return {
        "seconds": seconds / done.share,
        "cpu_seconds": used / done.share,
        "peak_bytes": _peak_bytes(),
        "bytes_per_row": 0.0 if done.scores is None else _bytes_per_row(done.scores, done.stored),
    }


def _bytes_per_row(scores: np.ndarray, stored: list[Path]) -> float:
    """Of the rows that have scores."""
    return sum(map(_size, stored)) / int(np.isfinite(scores).any(axis=1).sum())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _peak_bytes() -> int:
    """Largest resident size of this process. Not `ru_maxrss`, which a child inherits from the process that started
    it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
