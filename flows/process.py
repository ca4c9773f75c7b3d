"""Start a part of the pipeline as a process and turn its failure into one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from train.process import log_tail, run_process, told_error


class ProcessError(RuntimeError):
    """A child process that failed; the message holds its own reason, or the end of its log and where that is."""


def run_logged(command: Sequence[str], log: Path, *, name: str) -> None:
    """Run `command` to its end, on the terminal and in `log`. Raises `ProcessError` naming `name` when it fails."""
    code = run_process(command, log, show, {**os.environ, "PYTHONUNBUFFERED": "1"})
    if code:
        reason = told_error(log) or f"ended with exit code {code}; the end of its log {log}:\n{log_tail(log)}"
        raise ProcessError(f"{name}: {reason}")


def show(line: str) -> None:
    """One line of a child's output on the terminal; a progress bar's redraw stays on its line."""
    is_bar = "%|" in line and "100%" not in line
    sys.stderr.write(f"\r{line}" if is_bar else f"\r{line}\n")
    sys.stderr.flush()
