"""Run Python programs that a model wrote, shut in by bubblewrap: no network, no files of the host, all use bounded.

A model's program is whatever its training data made it: it may delete files, loop for ever or copy tokens from the
environment. bubblewrap (`bwrap`, the tool under Flatpak) gives it namespaces of its own with a read-only Python and one
small folder; resource limits, a filter of system calls (`eval.seccomp`) and a watch over the whole sandbox do the rest.
It works for root, whose programs get a user id of their own because the kernel exempts root from process limits, and
for ordinary users. Everything dies with its process namespace, so nothing a program starts can outlive it.
Cost: about 0.1 s of a core per program. Limit: Linux; the kernel itself is shared, so this is no virtual machine.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from eval.bubblewrap import FOLDER, SandboxError, SandboxLimits, command, find_sandbox
from eval.seccomp import SeccompError, filter_program

__all__ = ["Outcome", "ProgramResult", "SandboxError", "SandboxLimits", "find_sandbox", "run_program", "run_programs"]

Outcome = Literal["passed", "failed", "timeout", "memory", "output"]

_MOST_FILES = 10_000
_WATCH_SECONDS = 0.05  # between two looks at what the sandbox uses; memory may overshoot for as long


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended."""

    outcome: Outcome  # passed: exit code 0; failed: any other; the rest name the limit that ended it
    exit_code: int | None  # 128 + signal for a program that a signal ended; None: ended from outside
    output: str  # standard output and error in the order written, at most `output_kb`
    seconds: float  # wall time


@contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    """A descriptor that reads as `content`."""
    descriptor = os.memfd_create("sandbox")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)


def _tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it, as far as they still are there."""
    yield pid
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in itertools.chain.from_iterable(map(str.split, lists)):
        yield from _tree(int(child))


def _resident(pid: int, shared: bool) -> int:
    """Bytes of memory that a process holds; shared: each page divided by the processes that have it (slower)."""
    try:
        if shared:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except PermissionError:  # some kernels keep the finer count to themselves
        return _resident(pid, shared=False) if shared else 0
    except (OSError, IndexError):  # it has ended
        return 0


def _file_entries(first: int) -> int:
    """How many files and folders are in the working folder; 0 where the kernel does not let us look."""
    try:
        folder = os.statvfs(f"/proc/{first}/root{FOLDER}")
    except OSError:
        return 0
    return folder.f_files - folder.f_ffree


def _over(first: int, memory: int) -> bool:
    """Whether the sandbox whose first process is `first` holds more than `memory` bytes."""
    if _file_entries(first) > _MOST_FILES:  # empty files fill no folder, but the kernel's own memory
        return True
    pids = list(_tree(first))
    # the quick sum counts a shared page once per process, so it can clear a sandbox but not convict it
    return all(sum(_resident(pid, shared) for pid in pids) > memory for shared in (False, True))


class _Watch:
    """What is known of a running sandbox from outside: its output, its status and its first process."""

    def __init__(self, process: subprocess.Popen[bytes], status: int, limits: SandboxLimits) -> None:
        self.process, self.status, self.limits = process, status, limits
        self.output, self.reports = bytearray(), b""
        self.first: int | None = None  # process id of the namespace's first process
        self.first_handle: int | None = None

    def follow(self) -> Outcome | None:
        """Read until the program has ended (None) or passed a limit (which)."""
        assert self.process.stdout is not None
        output, deadline = self.process.stdout.fileno(), time.monotonic() + self.limits.seconds
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self.status, select.POLLIN)
        next_look = time.monotonic() + _WATCH_SECONDS
        opened = {output, self.status}
        while opened:
            now = time.monotonic()
            if now >= deadline:
                return "timeout"
            if now >= next_look:
                if self.first is not None and _over(self.first, self.limits.memory_mb * 2**20):
                    return "memory"
                next_look = time.monotonic() + _WATCH_SECONDS
            for descriptor, _ in poll.poll(max(0.0, min(deadline, next_look) - now) * 1000):
                data = os.read(descriptor, 65536)
                if not data:
                    poll.unregister(descriptor)
                    opened.discard(descriptor)
                elif descriptor == output:
                    self.output += data
                    if len(self.output) > self.limits.output_kb * 1024:
                        return "output"
                else:
                    self._report(data)
            if self.exit_code is not None or self.status not in opened:
                return self._drain(output)  # nobody is left to write more
        return None

    def _drain(self, output: int) -> Outcome | None:
        poll = select.poll()
        poll.register(output, select.POLLIN)
        while len(self.output) <= self.limits.output_kb * 1024 and poll.poll(0):
            data = os.read(output, 65536)
            if not data:
                return None
            self.output += data
        return "output" if len(self.output) > self.limits.output_kb * 1024 else None

    def _report(self, data: bytes) -> None:
        self.reports += data
        for line in self.reports.splitlines():
            report = json.loads(line) if line.endswith(b"}") else {}
            if "child-pid" in report and self.first is None:
                self.first = int(report["child-pid"])
                self.first_handle = self._handle(self.first)

    def _handle(self, pid: int) -> int | None:
        """A handle on the first process, unless it has ended and its number may be another's."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            parent = 0
        if parent == self.process.pid:
            return handle
        os.close(handle)
        return None

    @property
    def exit_code(self) -> int | None:
        """The program's exit code once bwrap has told it."""
        for line in self.reports.splitlines():
            if line.endswith(b"}") and b"exit-code" in line:
                return int(json.loads(line)["exit-code"])
        return None

    def close(self) -> None:
        """End the namespace and wait until the kernel has taken down every process in it."""
        if self.first_handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first_handle, signal.SIGKILL)
            os.close(self.first_handle)
        if self.first_handle is not None or self.exit_code is not None:
            with suppress(subprocess.TimeoutExpired):  # bwrap ends when the first process has, and that one ends last
                self.process.wait(timeout=30)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def run_program(source: str, limits: SandboxLimits | None = None, python: str = sys.executable) -> ProgramResult:
    """Run a program and say how it ended; it reads nothing from standard input and sees the standard library only.

    python: an interpreter of the host. Raises `SandboxError` when this machine cannot shut programs in, or not those of
    this interpreter.
    """
    bwrap = find_sandbox()
    _check_python(bwrap, python)
    return _run(bwrap, source, limits or SandboxLimits(), python)


def run_programs(
    sources: Iterable[str],
    limits: SandboxLimits | None = None,
    workers: int | None = None,
    python: str = sys.executable,
) -> list[ProgramResult]:
    """`run_program` on each source, in the order given; workers: at a time, by default one per processor core."""
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda source: run_program(source, limits, python), sources))


@cache
def _check_python(bwrap: str, python: str) -> None:
    """Run an empty program once, so that an interpreter that cannot start is not taken for programs that fail."""
    result = _run(bwrap, "", SandboxLimits(seconds=60), python)
    if result.outcome != "passed":
        raise SandboxError(
            f"{python} does not start in the sandbox ({result.outcome}: {result.output.strip() or 'it said nothing'}); "
            "name another interpreter, such as /usr/bin/python3"
        )


def _run(bwrap: str, source: str, limits: SandboxLimits, python: str) -> ProgramResult:
    try:
        filters = filter_program()
    except SeccompError as error:
        raise SandboxError(str(error)) from error
    with _as_file(source.encode("utf-8", "replace")) as program, _as_file(filters) as rules, _pipe() as (read, write):
        started = time.perf_counter()
        try:
            process = subprocess.Popen(
                command(bwrap, limits, python, program, rules, write),
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(program, rules, write),
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(write)
        watch = _Watch(process, read, limits)
        try:
            broken = watch.follow()
        finally:
            watch.close()
        seconds = time.perf_counter() - started
    text = bytes(watch.output[: limits.output_kb * 1024]).decode("utf-8", "replace")
    if broken is not None:
        return ProgramResult(broken, None, text, seconds)
    code = watch.exit_code
    if code is None:
        raise SandboxError(f"bubblewrap did not start the program: {text.strip() or 'it said nothing'}")
    if code == 0:
        return ProgramResult("passed", code, text, seconds)
    last = text.rstrip().rpartition("\n")[2]
    if last.partition(":")[0] == "MemoryError":
        return ProgramResult("memory", code, text, seconds)
    return ProgramResult("timeout" if code == 128 + signal.SIGXCPU else "failed", code, text, seconds)
