"""Start a part of the pipeline as a process, hand on what it says, and turn its failure into one message."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

from train.process import PROGRESS_PREFIX, log_tail, run_process, told_error, told_to_pass, was_killed

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


class ProcessError(RuntimeError):
    """A child process that failed; the message holds its own reason, or the end of its log and where that is.

    may_pass: whether another attempt may succeed: it was killed, or told an error of the network.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def run_logged(command: Sequence[str], log: Path, *, name: str) -> None:
    """Run `command` to its end, its lines going to the stage's listener (or the terminal) and into `log`. Raises
    `ProcessError` naming `name` when it fails."""
    code = run_process(command, log, show, {**os.environ, "PYTHONUNBUFFERED": "1"})
    if code:
        told = told_error(log)
        reason = told or f"ended with exit code {code}; the end of its log {log}:\n{log_tail(log)}"
        raise ProcessError(f"{name}: {reason}", may_pass=told_to_pass(log) if told else was_killed(code, log))


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Lines of processes started in here go to `listener` instead of the terminal."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def show(line: str) -> None:
    """Hand on one line of a child's output, or of a stage that works in this process."""
    (_listener.get() or show_on_terminal)(line)


def show_on_terminal(line: str) -> None:
    """A progress bar's redraw stays on its line."""
    if line.startswith(PROGRESS_PREFIX):
        return
    is_bar = "%|" in line and "100%" not in line
    sys.stderr.write(f"\r{line}" if is_bar else f"\r{line}\n")
    sys.stderr.flush()
