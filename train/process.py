"""Run a child process, keep its output in a log file and hand every line on while it runs.

Training and evaluation are processes of their own, so that their memory is free afterwards. A redraw of a progress bar
counts as a line. The child is ended when the parent is interrupted, and ends itself when the parent was killed: left
alone, it would go on writing where the next run works.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ERROR_PREFIX = "error: "
CURSOR_UP = "\x1b[A"  # how nested progress bars redraw
TAIL_LINES = 15
GRACE_SECONDS = 5
PARENT = "EQUIPOISE_PARENT"  # host:pid of the process that waits for this one, also through a launcher


def run_process(
    command: Sequence[str],
    log: Path,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run `command` to its end and return its exit code (negative: the signal that killed it).

    log: gets all of stdout and stderr; on_line: called with every line that is not blank; environment: replaces this
    process's.
    """
    child = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**(os.environ if environment is None else environment), PARENT: f"{socket.gethostname()}:{os.getpid()}"},
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert child.stdout is not None
    try:
        with log.open("w", encoding="utf-8") as written:
            for raw in child.stdout:  # universal newlines: a progress bar's carriage return ends a line too
                line = raw.replace(CURSOR_UP, "")
                written.write(line)
                written.flush()
                if on_line is not None and line.strip():
                    on_line(line.rstrip("\n"))
        return child.wait()
    finally:
        if child.poll() is None:
            _end(child)


def end_with_parent() -> None:
    """End this process as soon as the one that started it by `run_process` on this machine is gone."""
    host, _, pid = os.environ.get(PARENT, "").rpartition(":")
    if host == socket.gethostname():
        threading.Thread(target=_watch, args=(int(pid),), name="end-with-parent", daemon=True).start()


def _watch(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        pass  # it is gone already
    except (AttributeError, OSError):
        return  # no Linux, or an old one
    else:
        select.select([descriptor], [], [])
    os._exit(1)


def _end(child: subprocess.Popen) -> None:
    """A launcher needs SIGTERM to end its own workers; kill only what does not listen."""
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def told_error(log: Path) -> str | None:
    """The last line of a log that our own entry points wrote as `error: ...`, without the prefix."""
    told = [line for line in _lines(log) if line.startswith(ERROR_PREFIX)]
    return told[-1].removeprefix(ERROR_PREFIX) if told else None


def log_tail(log: Path) -> str:
    return "\n".join(_lines(log)[-TAIL_LINES:])


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()
