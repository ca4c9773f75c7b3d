"""Run Python programs that a model wrote, shut in by bubblewrap: no network, no files of the host, all use bounded.

A model's program is whatever its training data made it: it may delete files, loop for ever or copy tokens from the
environment. bubblewrap (`bwrap`, the tool under Flatpak) gives it namespaces of its own with a read-only Python and one
small folder; resource limits, a filter of system calls (`eval.seccomp`) and a watch over the whole sandbox do the rest.
It works for root, whose programs get a user id of their own because the kernel exempts root from process limits, and
for ordinary users. Everything dies with its process namespace, so nothing a program starts can outlive it.
Cost: about 50 ms per program. Limit: Linux; the kernel itself is shared, so this is no virtual machine.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eval.errors import EvaluationError
from eval.seccomp import SeccompError, filter_program

Outcome = Literal["passed", "failed", "timeout", "memory", "output"]

_WATCH_SECONDS = 0.05  # between two looks at what the sandbox uses; memory may overshoot for as long
_OPEN_FILES = 64
_FOLDER, _PROGRAM = "/work", "/program.py"
_FIRST_UID = 2**30  # above what distributions give out; each program of a root user gets one to itself

# The first process inside. Its child gives up root's user id, takes limits that no one there can raise again, and
# becomes the program; when that ends, so does this, and with a namespace's first process the kernel ends all others.
_LAUNCHER = """
import os, resource as r, signal, sys
uid, cpu, memory, processes, file_size, open_files = map(int, sys.argv[1:7])
signal.signal(signal.SIGINT, signal.SIG_DFL)
child = os.fork()
if child:
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
for kind, value in ((r.RLIMIT_CPU, cpu), (r.RLIMIT_AS, memory), (r.RLIMIT_FSIZE, file_size), (r.RLIMIT_CORE, 0),
                    (r.RLIMIT_NOFILE, open_files), (r.RLIMIT_NPROC, processes)):
    r.setrlimit(kind, (value, value))
os.execv(sys.executable, [sys.executable, "-S", "-s", "-B", sys.argv[7]])
"""


class SandboxError(EvaluationError):
    """Programs cannot be run shut in on this machine; the message says what to do."""


class SandboxLimits(BaseModel):
    """What one program may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(10.0, gt=0, le=3600, description="wall time; processor time per process is bounded likewise")
    memory_mb: int = Field(512, ge=64, description="memory of all processes of a program together, MiB")
    processes: int = Field(32, ge=1, description="processes and threads at a time")
    output_kb: int = Field(64, ge=1, description="standard output and error together, KiB; more ends the program")
    disk_mb: int = Field(16, ge=1, description="working folder, held in memory, MiB")


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended."""

    outcome: Outcome  # passed: exit code 0; failed: any other; the rest name the limit that ended it
    exit_code: int | None  # 128 + signal for a program that a signal ended; None: ended from outside
    output: str  # standard output and error in the order written, at most `output_kb`
    seconds: float  # wall time


def _system_folders() -> list[str]:
    """/usr and the folders or links beside it that its programs need."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return [*arguments, "--perms", "0755", "--dir", "/etc", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]


@cache
def _interpreter(python: str) -> tuple[str, tuple[str, ...]]:
    """The real file behind an interpreter, and the arguments that show it and its standard library inside."""
    program = (
        "import sys, sysconfig as c; print(sys.base_prefix, c.get_path('stdlib'), c.get_config_var('LIBDIR'), sep='|')"
    )
    try:
        if Path(python).resolve() == Path(sys.executable).resolve():
            places = [sys.base_prefix, sysconfig.get_path("stdlib"), str(sysconfig.get_config_var("LIBDIR"))]
        else:
            run = subprocess.run([python, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
            places = run.stdout.strip().split("|")
    except (OSError, subprocess.CalledProcessError) as error:
        raise SandboxError(f"{python} is no Python that could run programs: {error}") from error
    prefix, library = Path(places[0]), Path(places[1])
    executable = Path(python).resolve()
    if prefix == Path("/usr") or executable.is_relative_to("/usr"):
        return str(executable), ()
    # the folders that hold the program and its libraries, not the prefix: that may be someone's home
    shown = {executable, library.parent if library.parent.is_relative_to(prefix) else library, Path(places[2])}
    arguments: list[str] = []
    for path in sorted(path for path in shown if path.exists()):
        # of themselves, folders above would be as closed as a home folder is
        for above in reversed(path.parents[:-1]):
            arguments += ["--perms", "0755", "--dir", str(above)]
        arguments += ["--ro-bind", str(path), str(path)]
    return str(executable), tuple(arguments)


def _own_uid() -> bool:
    """Whether programs must be given a user id: process limits do not hold for the real root."""
    return os.geteuid() == 0


_numbers = itertools.count()


def _new_uid() -> int:
    """A user id that no other program running now has, so that each one's processes are counted by themselves."""
    spans = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    start, _, length = max(spans, key=lambda span: span[2])
    if length > 2**31:
        return _FIRST_UID + (os.getpid() % 2**22) * 2**8 + next(_numbers) % 2**8
    if length < 2:  # a namespace with root alone, who is an ordinary user outside: limits hold for him
        return 0
    return start + length - 1 - next(_numbers) % min(length - 1, 1024)


def _walls(bwrap: str) -> list[str]:
    """bwrap with all of the sandbox but the program's own files."""
    arguments = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox"]
    if _own_uid():
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        arguments += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    return [*arguments, *_system_folders(), "--proc", "/proc", "--dev", "/dev"]


@cache
def _check(bwrap: str) -> None:
    """Start `true` shut in. Raises `SandboxError` with what the kernel or bwrap said."""
    arguments = [*_walls(bwrap), "--size", "1048576", "--tmpfs", _FOLDER, "--remount-ro", "/", "--", "/usr/bin/true"]
    run = subprocess.run(arguments, env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if run.returncode == 0:
        return
    said = run.stderr.strip() or f"exit code {run.returncode}"
    if "nknown option" in said:
        raise SandboxError(f"{bwrap} is too old ({said}): bubblewrap 0.7 or newer is needed")
    raise SandboxError(
        f"bubblewrap cannot shut a program in on this machine ({said}). On a host, allow user namespaces: "
        "`sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0` (those of the "
        "two that exist); in a container, start it with `--cap-add SYS_ADMIN --security-opt seccomp=unconfined`"
    )


def find_sandbox() -> str:
    """Path of bwrap, after a program has really been started in it once.

    Raises `SandboxError` when bwrap is missing or too old, or when the machine does not permit namespaces.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError(
            "bubblewrap, which shuts model-written programs in, is not installed: `apt-get install bubblewrap` "
            "(package bubblewrap in other distributions too)"
        )
    _check(bwrap)
    return bwrap


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


def _command(bwrap: str, limits: SandboxLimits, python: str, program: int, filters: int, status: int) -> list[str]:
    executable, files = _interpreter(python)
    uid = _new_uid() if _own_uid() else 0
    mebi = 2**20
    numbers = (
        uid,
        int(limits.seconds) + 2,
        limits.memory_mb * mebi,
        limits.processes + (0 if uid else 1),  # the namespace's first process counts where it has the same user
        limits.disk_mb * mebi,
        _OPEN_FILES,
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": _FOLDER, "TMPDIR": _FOLDER, "LANG": "C.UTF-8"}
    # one memory pool for all threads: each new one would take 64 MiB of address space; a fixed order of sets
    environment |= {"MALLOC_ARENA_MAX": "1", "PYTHONHASHSEED": "0"}
    return [
        *_walls(bwrap),
        *files,
        *(part for name, value in environment.items() for part in ("--setenv", name, value)),
        *("--perms", "0444", "--ro-bind-data", str(program), _PROGRAM),
        *("--perms", "0777", "--size", str(limits.disk_mb * mebi), "--tmpfs", _FOLDER, "--chdir", _FOLDER),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        *("--seccomp", str(filters), "--json-status-fd", str(status)),
        *("--", executable, "-S", "-s", "-B", "-c", _LAUNCHER, *map(str, numbers), _PROGRAM),
    ]


def _tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it, as far as they still are there."""
    yield pid
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in itertools.chain.from_iterable(map(str.split, lists)):
        yield from _tree(int(child))


def _resident(pids: Sequence[int]) -> int:
    """Bytes of memory of processes together; pages that they share count once if the plain sum is not known to do."""
    total = 0
    for pid in pids:
        try:
            shares = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in shares.splitlines() if line.startswith("Pss:")) * 1024
        except OSError:  # it has ended
            continue
    return total


def _over(first: int, memory: int) -> bool:
    """Whether the sandbox whose first process is `first` holds more than `memory` bytes."""
    pids = list(_tree(first))
    plain = 0
    for pid in pids:
        try:
            plain += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    # the plain sum is cheap but counts shared pages once per process, so only it can clear a sandbox, not convict it
    return plain > memory and _resident(pids) > memory


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
        while len(self.output) <= self.limits.output_kb * 1024 and select.select([output], [], [], 0)[0]:
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
                _command(bwrap, limits, python, program, rules, write),
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
