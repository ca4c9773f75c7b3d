"""Run a child process, keep its output in a log file and hand every line on while it runs.

Training and evaluation are processes of their own, so that their memory is free afterwards. A redraw of a progress bar
counts as a line. However this ends (an error, Ctrl-C, a cancelled run, a time limit), the child ends with it, and so do
the launcher's workers and whatever else it started: it leads a session of its own, and its descendants are looked up.
When this process is killed, nobody is left to end the child, so it ends itself: left alone, it would go on writing
where the next run works. Secrets of its environment are masked before a line is written anywhere.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from train.secrets import masker
from train.transient import is_transient

ERROR_PREFIX, PASSING_PREFIX = "error: ", "error that may pass: "
PROGRESS_PREFIX = "progress: "
CURSOR_UP = "\x1b[A"  # how nested progress bars redraw
TAIL_LINES = 15
GRACE_SECONDS = 5
PARENT = "EQUIPOISE_PARENT"  # host:pid of the process that waits for this one, also through a launcher
LAUNCHER_SAW_A_SIGNAL = ("died with <Signals.", "(SIGKILL)", "(SIGSEGV)", "(SIGBUS)")  # accelerate, torchrun
LOOK_SECONDS = 0.2  # how often a wait for the next line looks up, so that a cancelled thread notices


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
    mask = masker(environment)
    child = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**(os.environ if environment is None else environment), **as_parent()},
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        with log.open("w", encoding="utf-8") as written:
            for raw in _lines_of(child):  # universal newlines: a progress bar's carriage return ends a line too
                line = mask(raw.replace(CURSOR_UP, ""))
                written.write(line)
                written.flush()
                if on_line is not None and line.strip():
                    on_line(line.rstrip("\n"))
        return child.wait()
    finally:
        end_process(child)


def _lines_of(child: subprocess.Popen) -> Iterator[str]:
    """Lines until the output ends, or the child does: what it left behind may hold the pipe open for ever."""
    assert child.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    ended = False
    while True:
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if ended:
                return
            ended = child.poll() is not None
            continue
        if line is None:
            return
        yield line


def _read(output: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in output:
            lines.put(line)
    lines.put(None)


def as_parent() -> dict[str, str]:
    """What names this process in the environment of a child that is to end with it."""
    return {PARENT: f"{socket.gethostname()}:{os.getpid()}"}


def end_with_parent() -> None:
    """End this process as soon as the one on this machine that named itself by `as_parent` is gone."""
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


def end_process(child: subprocess.Popen) -> None:
    """End what is left of a child that leads a session, and of its descendants. A launcher needs SIGTERM to end its own
    workers, which may lead sessions of their own; kill only what does not listen."""
    family = _descendants(child.pid)
    if child.poll() is None:
        child.terminate()
    _signal_group(child.pid, signal.SIGTERM)
    for each in family:
        with contextlib.suppress(psutil.Error):
            each.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    _, stubborn = psutil.wait_procs(family, timeout=max(0.0, deadline - time.monotonic()))
    for each in stubborn:
        with contextlib.suppress(psutil.Error):
            each.kill()
    _signal_group(child.pid, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=1)  # they are gone when this returns, not a moment later
    if child.poll() is None:
        child.kill()
        child.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def progress_line(done: int, total: int, what: str) -> str:
    """How a process tells the one that started it how far it is; such a line is shown, but logged nowhere else."""
    return f"{PROGRESS_PREFIX}{done}/{total} {what}"


def say_error(error: BaseException | str, origin: str = "") -> None:
    """Tell the parent process why this one ends: one `error: ...` line on stderr."""
    passing = isinstance(error, BaseException) and is_transient(error)
    print(f"{PASSING_PREFIX if passing else ERROR_PREFIX}{origin}{error}", file=sys.stderr)


def told_error(log: Path) -> str | None:
    """The last line of a log that our own entry points wrote as `error: ...`, without the prefix."""
    told = _told(log)
    return told[-1][1] if told else None


def told_to_pass(log: Path) -> bool:
    """Whether the error that the log tells may pass by itself."""
    told = _told(log)
    return bool(told) and told[-1][0] == PASSING_PREFIX


def _told(log: Path) -> list[tuple[str, str]]:
    prefixes = (ERROR_PREFIX, PASSING_PREFIX)
    return [(p, line.removeprefix(p)) for line in _lines(log) for p in prefixes if line.startswith(p)]


def was_killed(code: int, log: Path) -> bool:
    """Whether a signal ended the child or, as its log tells, the worker of a launcher."""
    return code < 0 or any(sign in line for line in _lines(log)[-TAIL_LINES * 4 :] for sign in LAUNCHER_SAW_A_SIGNAL)


def log_tail(log: Path) -> str:
    return "\n".join(_lines(log)[-TAIL_LINES:])


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()
