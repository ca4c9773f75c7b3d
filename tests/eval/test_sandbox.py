"""The sandbox against programs that try to get out: each test asserts that the attempt failed and what stopped it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from eval import bubblewrap, sandbox
from eval.sandbox import SandboxError, SandboxLimits, find_sandbox, run_program, run_programs
from eval.seccomp import REFUSED, SeccompError, filter_program

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
QUICK = SandboxLimits(seconds=5)
REPORT = """
import errno, os
def attempt(what, *arguments, **named):
    try:
        print("done", what(*arguments, **named))
    except OSError as error:
        print(type(error).__name__, errno.errorcode.get(error.errno, error.errno))
"""


def attempt(program: str, limits: SandboxLimits = QUICK) -> str:
    """What a program printed that was to end well."""
    result = run_program(REPORT + program, limits)
    assert result.outcome == "passed", result
    return result.output


def left_over(marker: str) -> list[psutil.Process]:
    """Processes, seen from the host, that carry `marker` in their command line or are still those of bwrap."""
    me = psutil.Process().pid
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "ppid"]):
        line = " ".join(process.info["cmdline"] or [])
        if marker in line or (process.info["ppid"] == me and "bwrap" in line):
            found.append(process)
    return found


def test_an_honest_program_passes_with_its_output():
    result = run_program("import math, json\nprint(json.dumps(math.factorial(5)))", QUICK)
    assert (result.outcome, result.exit_code, result.output) == ("passed", 0, "120\n")
    assert 0 < result.seconds < QUICK.seconds


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("assert 1 + 1 == 3", 1, "AssertionError"),
        ("import sys; sys.exit(7)", 7, ""),
        ("def f(:", 1, "SyntaxError"),
        ("import numpy", 1, "ModuleNotFoundError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, ""),
        ("input()", 1, "EOFError"),
    ],
)
def test_a_wrong_program_fails_and_says_why(program, code, said):
    result = run_program(program, QUICK)
    assert (result.outcome, result.exit_code) == ("failed", code)
    assert said in result.output


def test_a_system_interpreter_serves_as_well():
    result = run_program("import sys; print(sys.prefix)", QUICK, python="/usr/bin/python3")
    assert (result.outcome, result.output) == ("passed", "/usr\n")


def test_the_hosts_loopback_cannot_be_reached():
    arrived = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]

        def listen():
            try:
                server.accept()[0].close()
                arrived.set()
            except OSError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        said = attempt(f"import socket\nattempt(socket.create_connection, ('127.0.0.1', {port}), 2)")
        assert said == "ConnectionRefusedError ECONNREFUSED\n"  # its own loopback, where nobody listens
        assert not arrived.is_set()
        socket.create_connection(("127.0.0.1", port), 2).close()  # and the server does listen
        listener.join()
    assert arrived.is_set()


def test_names_and_outside_addresses_cannot_be_reached():
    program = """
import socket
attempt(socket.create_connection, ("192.0.2.1", 80), 2)
try:
    socket.getaddrinfo("example.org", 80)
except socket.gaierror as error:
    print("no name", error.errno == socket.EAI_AGAIN)
print([line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line])
"""
    assert attempt(program) == "OSError ENETUNREACH\nno name True\n['lo']\n"


def test_the_virtual_machines_own_channel_cannot_be_reached():
    said = attempt("import socket\nfor family in (40, 16, 17): attempt(socket.socket, family, socket.SOCK_DGRAM)")
    assert said == "OSError EAFNOSUPPORT\n" * 3  # AF_VSOCK, AF_NETLINK, AF_PACKET


def test_files_of_the_host_are_not_there(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("token")
    secret.chmod(0o644)
    tmp_path.chmod(0o755)
    paths = ["/etc/shadow", "/etc/passwd", str(secret), str(ROOT / "README.md"), str(Path.home() / ".bashrc")]
    said = attempt(f"for path in {paths!r}: attempt(open, path)")
    assert said == "FileNotFoundError ENOENT\n" * len(paths)
    said = attempt(
        f"print(sorted(os.listdir('/')), os.listdir('/sandbox'), os.path.exists({str(Path.home())!r} + '/.ssh'))"
    )
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "program.py", "sbin", "sandbox", "usr"}
    names = set(json.loads(said.partition("]")[0].replace("'", '"') + "]"))
    assert names - allowed <= {Path(sys.base_prefix).parts[1]}
    assert said.endswith("[] False\n")


def test_the_environment_is_empty_of_the_hosts(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    said = attempt(
        """
print(sorted(os.environ))
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        print(b'planted' in open(f'/proc/{pid}/environ', 'rb').read() + open(f'/proc/{pid}/cmdline', 'rb').read())
    except OSError:
        print(False)
"""
    )
    assert "HF_TOKEN" not in said
    assert "planted" not in said
    assert "True" not in said


def test_writing_outside_the_working_folder_fails():
    said = attempt(
        "for path in ('/x', '/usr/x', '/dev/x', '/dev/shm/x', '/etc/x', '/program.py'): attempt(open, path, 'w')"
    )
    assert set(said.split()[1::2]) <= {"EROFS", "EACCES", "ENOENT"}
    assert len(said.splitlines()) == 6
    assert attempt("attempt(open('/sandbox/x', 'w').write, 'abc')") == "done 3\n"


def test_the_working_folder_is_gone_and_bounded():
    limits = SandboxLimits(seconds=5, disk_mb=4)
    program = """
def fill(number):
    with open(f"/sandbox/{number}", "wb") as file:
        for _ in range(3):
            file.write(bytes(2**20))
for number in range(2): attempt(fill, number)
"""
    assert attempt(program, limits) == "done None\nOSError ENOSPC\n"
    assert attempt("print(os.listdir('/sandbox'))", limits) == "[]\n"
    result = run_program("open('/sandbox/x', 'wb').truncate(5 * 2**20)", limits)  # a single file has that limit too
    assert result.outcome == "failed"


def test_an_endless_loop_is_ended_in_time():
    result = run_program("print('start', flush=True)\nwhile True: pass", SandboxLimits(seconds=1))
    assert (result.outcome, result.exit_code, result.output) == ("timeout", None, "start\n")
    assert 1 <= result.seconds < 3


def test_a_program_that_ignores_signals_is_ended_in_time():
    program = """
import signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
time.sleep(60)
"""
    result = run_program(program, SandboxLimits(seconds=1))
    assert result.outcome == "timeout"
    assert result.seconds < 3


def test_endless_output_is_cut_at_the_cap():
    result = run_program("while True: print('x' * 1000)", SandboxLimits(seconds=30, output_kb=16))
    assert (result.outcome, len(result.output)) == ("output", 16 * 1024)
    assert result.seconds < 5


def test_four_gibibytes_are_refused():
    result = run_program("data = bytearray(4 * 2**30)", QUICK)
    assert result.outcome == "memory"
    assert "MemoryError" in result.output


def test_memory_is_counted_over_all_processes():
    program = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(b"x") * (60 * 2**20)
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""
    result = run_program(program, SandboxLimits(seconds=15, memory_mb=256))
    assert (result.outcome, result.exit_code) == ("memory", None)
    assert result.seconds < 10


def test_endless_empty_files_are_ended():
    program = "n = 0\nwhile True:\n    n += 1\n    open(f'/sandbox/{n}', 'w').close()"
    result = run_program(program, SandboxLimits(seconds=20))
    assert result.outcome == "memory"
    assert result.seconds < 10


def test_memory_in_files_without_a_name_is_refused():
    assert attempt("attempt(os.memfd_create, 'x')") == "PermissionError EPERM\n"


def test_a_fork_bomb_is_held_and_leaves_nothing():
    program = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    results = []
    bomb = threading.Thread(target=lambda: results.append(run_program(program, SandboxLimits(seconds=3, processes=16))))
    before = len(psutil.pids())
    bomb.start()
    time.sleep(1.5)
    while_running = len(psutil.pids())
    started = time.perf_counter()
    subprocess.run(["true"], check=True)  # the machine still starts processes, and soon
    assert time.perf_counter() - started < 1
    honest = run_program("print('still here')", SandboxLimits(seconds=20))
    assert honest.output == "still here\n"  # a bomb does not use up another program's processes
    bomb.join()
    assert while_running - before < 60
    assert results[0].outcome == "timeout"
    assert left_over("/program.py") == []


def test_forking_stops_at_the_limit_and_says_so():
    program = """
import time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(10)
            os._exit(0)
        children += 1
except OSError as error:
    print(errno.errorcode[error.errno], children)
"""
    assert attempt(program, SandboxLimits(seconds=5, processes=8)) == "EAGAIN 7\n"  # 8 with the program itself


def test_a_process_left_behind_does_not_survive():
    program = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(987)", "left-behind-marker"])
    os._exit(0)
os.wait()
time.sleep(0.3)
print("gone")
"""
    result = run_program(program, QUICK)
    assert (result.outcome, result.output) == ("passed", "gone\n")
    assert result.seconds < 4  # it did not wait for the one left behind either
    assert left_over("left-behind-marker") == []


def test_other_processes_cannot_be_seen_or_killed():
    said = attempt(
        f"""
import signal
print(sorted(filter(str.isdigit, os.listdir('/proc')), key=int))
attempt(os.kill, {os.getpid()}, 0)
attempt(os.kill, os.getppid(), signal.SIGKILL)
import time; time.sleep(0.2)
print('alive')
"""
    )
    lines = said.splitlines()
    assert lines[0] == "['1', '2']"
    assert lines[1] == "ProcessLookupError ESRCH"
    # the first process is root's, or else the kernel keeps such signals from the first of a namespace
    assert lines[2] in ("PermissionError EPERM", "done None")
    assert lines[3] == "alive"


def test_the_first_process_leads_nowhere():
    said = attempt(
        """
attempt(os.listdir, '/proc/1/root/root')
attempt(os.listdir, '/proc/1/cwd')
attempt(open, '/proc/1/root/etc/shadow')
"""
    )
    assert "done" not in said.splitlines()[2]
    assert set(said.split()[1::2]) <= {"EACCES", "ENOENT", "None", "[]"}


def test_system_calls_that_open_doors_are_refused():
    numbers = {name: pair[0 if platform.machine() == "x86_64" else 1] for name, pair in REFUSED.items()}
    said = attempt(
        f"""
import ctypes, json
call = ctypes.CDLL(None, use_errno=True).syscall
found = {{}}
for name, number in {numbers!r}.items():
    ctypes.set_errno(0)
    result = call(number, 0, 0, 0, 0, 0, 0)
    found[name] = [result, errno.errorcode.get(ctypes.get_errno())]
print(json.dumps(found))
"""
    )
    found = json.loads(said)
    assert found == {name: [-1, "EPERM"] for name in REFUSED}
    # without the filter the kernel answers some of them otherwise, so it is the filter that is seen here
    call = ctypes.CDLL(None, use_errno=True).syscall
    descriptor = call(numbers["memfd_create"], b"x", 0)
    assert descriptor > 0
    os.close(descriptor)


def test_namespaces_of_its_own_are_refused():
    program = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
NEW_USER, SIGCHLD = 0x10000000, 17
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
for number, arguments in ((clone, (NEW_USER | SIGCHLD, 0, 0, 0, 0)), (435, (0, 0))):
    ctypes.set_errno(0)
    print(call(number, *arguments), errno.errorcode[ctypes.get_errno()])
"""
    assert attempt(program) == "-1 EPERM\n-1 ENOSYS\n"


def test_no_privilege_is_left():
    said = attempt(
        """
status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())
print(status['NoNewPrivs'], status['CapEff'], status['CapPrm'], status['CapAmb'], os.getuid() != 0, os.getgroups())
attempt(os.setuid, 0)
"""
    )
    none = "0" * 16
    first, second = said.splitlines()
    assert first.startswith(f"1 {none} {none} {none} True ")
    assert second in ("PermissionError EPERM", "OSError EINVAL")


def test_limits_cannot_be_raised():
    program = """
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
        print("raised")
    except ValueError as error:
        print(error)
"""
    assert attempt(program) == "not allowed to raise maximum limit\n" * 4


def test_many_programs_keep_their_order_and_run_beside_each_other():
    limits = SandboxLimits(seconds=20)
    results = run_programs(
        [f"import time; time.sleep(0.5 - {n} / 10); print({n})" for n in range(5)], limits, workers=5
    )
    assert [result.output for result in results] == [f"{n}\n" for n in range(5)]
    assert run_programs([], limits) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_is_held_as_well():
    """A child process gives up root; its programs then go through the user namespace that ordinary users need."""
    programs = {
        "honest": "print('fine')",
        "user": "import os; print(os.getuid(), open('/proc/self/status').read().count('CapEff:\\t0000000000000000'))",
        "bomb": "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(9); os._exit(0)\n"
        "        n += 1\nexcept OSError as error: print(error.errno, n)",
        "root": "open('/x', 'w')",
        "dev": "open('/dev/shm/x', 'w')",
        "secret": "open('/etc/passwd')",
        "memory": "x = bytearray(4 * 2**30)",
        "loop": "while True: pass",
        "files": "n = 0\nwhile True:\n    n += 1\n    open(f'/sandbox/{n}', 'w').close()",
        "together": "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (100 * 2**20); time.sleep(9); os._exit(0)\ntime.sleep(9)",
    }
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(1500)
            os.setuid(1500)
            bubblewrap._check.cache_clear()
            sandbox._check_python.cache_clear()
            limits = SandboxLimits(seconds=4, processes=8)
            results = {name: run_program(text, limits, "/usr/bin/python3") for name, text in programs.items()}
            told = {name: [result.outcome, result.output] for name, result in results.items()}
        except BaseException as error:
            told = {"error": repr(error)}
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        told = json.load(answers)
    os.waitpid(child, 0)
    assert "error" not in told, told
    assert told["honest"] == ["passed", "fine\n"]
    assert told["user"] == ["passed", "65534 1\n"]
    assert told["bomb"] == ["passed", "11 7\n"]
    assert told["memory"][0] == "memory"
    assert told["together"][0] == "memory"
    assert told["files"][0] == "memory"
    assert told["loop"][0] == "timeout"
    for name, why in (("root", "Read-only file system"), ("dev", "Read-only file system"), ("secret", "No such file")):
        assert told[name][0] == "failed"
        assert why in told[name][1]


def test_a_missing_bubblewrap_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        find_sandbox()
    with pytest.raises(SandboxError, match="not installed"):
        run_program("pass")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "bwrap: No permissions to create new namespace",
            r"cannot shut a program in .*No permissions.*--cap-add SYS_ADMIN",
        ),
        ("bwrap: Unknown option --size", "too old .*0.7 or newer"),
    ],
)
def test_a_bubblewrap_that_does_not_work_says_what_to_do(monkeypatch, tmp_path, said, message):
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxError, match=message):
        find_sandbox()


def test_an_interpreter_that_does_not_start_is_not_a_failed_program():
    with pytest.raises(SandboxError, match="is no Python"):
        run_program("pass", python="/nowhere/python3")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory_mb": 1}, {"processes": 0}, {"output_kb": 0}, {"colour": 1}])
def test_limits_are_checked(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SandboxLimits.model_validate(wrong)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(SeccompError, match="riscv64"):
        filter_program("riscv64")
