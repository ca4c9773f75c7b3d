"""A child process and all it started end with the work they were started for, and its secrets are not written down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from train.process import run_process, say_error, told_error, told_to_pass, was_killed
from train.secrets import LISTED, masker

ROOT = Path(__file__).parents[2]
# a launcher whose worker leads a session of its own and does not listen to SIGTERM, as a hung CUDA call would not
FAMILY = """
import subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
other = subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
print(f"pids {other.pid}", flush=True)
time.sleep(600)
"""


class StopError(Exception):
    pass


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_an_interrupted_wait_ends_the_whole_family(tmp_path, monkeypatch):
    pids = []

    def stop(line):
        if line.startswith("pids "):
            pids.append(int(line.split()[1]))
        if line == "up":
            raise StopError

    monkeypatch.setattr("train.process.GRACE_SECONDS", 0.5)  # the worker would wait for the end of any grace
    with pytest.raises(StopError):
        run_process([sys.executable, "-c", FAMILY], tmp_path / "log", stop)
    assert pids
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_family_while_it_is_silent(tmp_path, number):
    code = (
        "import signal, sys, train.process; from pathlib import Path; from train.process import run_process\n"
        "train.process.GRACE_SECONDS = 0.5\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"  # as Prefect's engine does: an exception
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent in the background ignores it
        f"run_process([sys.executable, '-c', {FAMILY!r}], Path({str(tmp_path / 'log')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "log"
    while not log.exists() or "up" not in log.read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    pid = int(log.read_text().split()[1])
    parent.send_signal(number)
    assert parent.wait(60) != 0
    assert not is_alive(pid)


def test_what_a_dead_child_left_behind_does_not_hold_the_parent(tmp_path):
    code = "import subprocess, sys; print('bye', flush=True); subprocess.Popen(['sleep', '600'])"
    assert run_process([sys.executable, "-c", code], tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == "bye\n"


def test_no_line_is_lost_at_the_end(tmp_path):
    lines = []
    code = "print('\\n'.join(map(str, range(20000))))"
    assert run_process([sys.executable, "-c", code], tmp_path / "log", lines.append) == 0
    assert lines == [str(number) for number in range(20000)]


def test_secrets_are_masked_in_the_log_and_in_the_lines(tmp_path):
    environment = {
        **os.environ,
        "HF_TOKEN": "hf_planted_value",
        "LICENCE": "listed-value",
        LISTED: "LICENCE",
        "HF_TOKEN_PATH": "/a/path/that/is/shown",
    }
    code = "import os; print([os.environ[n] for n in ('HF_TOKEN', 'LICENCE', 'HF_TOKEN_PATH')])"
    lines = []
    run_process([sys.executable, "-c", code], tmp_path / "log", lines.append, environment)
    assert lines == ["['***', '***', '/a/path/that/is/shown']"]
    assert (tmp_path / "log").read_text() == lines[0] + "\n"


def test_a_secret_within_another_leaves_nothing_of_it():
    mask = masker({"A_TOKEN": "abcdef", "B_TOKEN": "abcdefghij", "C_TOKEN": "short", "TOKENIZERS_PARALLELISM": "false"})
    assert mask("abcdefghij abcdef short false") == "*** *** short false"


@pytest.mark.parametrize(("error", "passes"), [(ConnectionResetError("reset"), True), (ValueError("row 3"), False)])
def test_a_child_tells_whether_its_error_may_pass(tmp_path, capfd, error, passes):
    say_error(error, "model: ")
    log = tmp_path / "log"
    log.write_text(capfd.readouterr().err)
    assert told_error(log) == f"model: {error}"
    assert told_to_pass(log) is passes


def test_a_worker_s_death_is_known_through_its_launcher(tmp_path):
    log = tmp_path / "log"
    log.write_text("Command '[...]' died with <Signals.SIGKILL: 9>.\n")
    assert was_killed(1, log)
    log.write_text("Command '[...]' returned non-zero exit status 1.\n")
    assert not was_killed(1, log)
    assert was_killed(-9, log)
