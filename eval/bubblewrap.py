"""The bubblewrap command that shuts one program in: what it sees, whose rights it has and which limits it takes.

Everything that the sandbox promises is in one list of arguments and one short launcher that runs inside before the
program. root's programs get a user id of their own, because the kernel exempts root from limits on processes; those of
an ordinary user get a user namespace, in which their processes are counted by themselves (Linux 5.14 and newer; older
kernels count all processes of the user). Limit: Linux with bubblewrap 0.7 or newer.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from eval.errors import EvaluationError

_OPEN_FILES = 64
FOLDER, _PROGRAM = "/sandbox", "/program.py"
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
    arguments = [*_walls(bwrap), "--size", "1048576", "--tmpfs", FOLDER, "--remount-ro", "/", "--", "/usr/bin/true"]
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


def command(bwrap: str, limits: SandboxLimits, python: str, program: int, filters: int, status: int) -> list[str]:
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
    environment = {"PATH": "/usr/bin:/bin", "HOME": FOLDER, "TMPDIR": FOLDER, "LANG": "C.UTF-8"}
    # one memory pool for all threads: each new one would take 64 MiB of address space; a fixed order of sets
    environment |= {"MALLOC_ARENA_MAX": "1", "PYTHONHASHSEED": "0"}
    return [
        *_walls(bwrap),
        *files,
        *(part for name, value in environment.items() for part in ("--setenv", name, value)),
        *("--perms", "0444", "--ro-bind-data", str(program), _PROGRAM),
        *("--perms", "0777", "--size", str(limits.disk_mb * mebi), "--tmpfs", FOLDER, "--chdir", FOLDER),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        *("--seccomp", str(filters), "--json-status-fd", str(status)),
        *("--", executable, "-S", "-s", "-B", "-c", _LAUNCHER, *map(str, numbers), _PROGRAM),
    ]
