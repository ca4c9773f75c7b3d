"""Starts the runners, each under its own environment's Python, and asks them for one round at a time."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BENCHMARK_THREADS")
ANSWERS = "BENCHMARK_ANSWERS"  # number of the open file that a runner answers on


class RunnerError(RuntimeError):
    """A runner that could not start or broke down; the message says what it said."""


@dataclass(frozen=True)
class Done:
    """One round: wall seconds, processor seconds of all its threads, peak resident bytes so far, bytes on disk per
    pool row."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    bytes_per_row: float


@dataclass
class Runner:
    """One tool's process, and what the tool says of itself. answers: the file that it writes to."""

    name: str
    process: subprocess.Popen[str]
    answers: TextIO
    out: Path
    version: str = ""
    quantity: str | None = None
    about: str = ""

    def go(self) -> Done:
        """One round. Raises `RunnerError`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and what it said last is read now
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        return Done(**self.answer())

    def answer(self) -> dict[str, Any]:
        """The next line that the runner writes."""
        line = self.answers.readline()
        answer = json.loads(line) if line else {"error": f"it ended: {self._last_words()}"}
        if "error" in answer:
            self.stop()
            raise RunnerError(answer["error"])
        return answer

    def read_description(self) -> None:
        """Wait until the tool has loaded its model, and take what it says of itself."""
        said = self.answer()
        self.version, self.quantity, self.about = said["version"], said["quantity"], said["about"]

    def _last_words(self) -> str:
        lines = (self.out / "log").read_text().strip().splitlines()
        return lines[-1] if lines else "without a word"

    def stop(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and what was not sent is lost
            self.process.stdin.close()
        self.answers.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start(name: str, program: str, python: Path, bundle: Path, out: Path, threads: int, mode: str = "") -> Runner:
    """Start `run_<program>.py` under `python`; returns at once, while it loads."""
    out.mkdir(parents=True)
    read_end, write_end = os.pipe()
    environment = {
        **os.environ,
        **dict.fromkeys(THREADS, str(threads)),
        ANSWERS: str(write_end),
        "HF_HUB_OFFLINE": "1",
    }
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            [str(python), str(HERE / f"run_{program}.py"), str(bundle), str(out), mode],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=environment,
            pass_fds=(write_end,),
        )
    os.close(write_end)
    return Runner(name, process, os.fdopen(read_end), out)
