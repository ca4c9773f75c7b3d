"""Run a part of the pipeline as a process of its own, with its output in a log file, on the terminal and in the
Prefect log.

Training and evaluation are processes so that their memory is free afterwards and the orchestrator's heart-beats go on.
Progress bars (lines that end in a carriage return) reach the terminal only. The child is ended when the parent is
interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL_LINES = 15


class ProcessError(RuntimeError):
    """A child process that failed; the message holds the end of its output and the log's path."""


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    name: str,
    on_line: Callable[[str], None] = lambda line: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `command` to its end. Raises `ProcessError` naming `name` when it fails."""
    lines: list[str] = []
    with (
        log.open("w") as file,
        subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        ) as child,
    ):
        assert child.stdout is not None
        try:
            pending = b""
            while chunk := child.stdout.read1(65536):  # type: ignore[attr-defined]
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
                *whole, pending = (pending + chunk).replace(b"\r\n", b"\n").split(b"\n")
                for raw in whole:
                    line = raw.rsplit(b"\r", 1)[-1].decode(errors="replace").rstrip()
                    if line:
                        file.write(line + "\n")
                        lines.append(line)
                        on_line(line)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if errors:
            raise ProcessError(f"{name}: {errors[-1]}")
        tail = "\n".join(lines[-TAIL_LINES:])
        raise ProcessError(f"{name} ended with exit code {child.returncode}; its log is {log}, which ends:\n{tail}")


def show(line: str) -> None:
    """One line of a child's output on the terminal; a progress bar's redraw stays on its line."""
    is_bar = "%|" in line or "it/s" in line
    sys.stderr.write(f"\r{line}" if is_bar and "100%" not in line else f"\r{line}\n")
    sys.stderr.flush()
