"""A part of the pipeline that runs as a process of its own: its output is kept, its failure is one message."""

from __future__ import annotations

import sys

import pytest

from flows.process import ProcessError, run_logged


def python(code):
    return [sys.executable, "-c", code]


def test_output_goes_to_the_log_and_to_the_terminal(tmp_path, capfd):
    log = tmp_path / "work.log"
    run_logged(
        python("import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr)"), log, name="work"
    )
    assert log.read_text().splitlines() == ["to stdout", "to stderr"]
    shown = capfd.readouterr().err
    assert "to stdout" in shown
    assert "to stderr" in shown


def test_a_failure_s_own_reason_is_the_message(tmp_path):
    code = "print('error: an older one'); print('error: row 3 has no answer'); print('and more'); raise SystemExit(1)"
    with pytest.raises(ProcessError, match=r"^training: row 3 has no answer$"):
        run_logged(python(code), tmp_path / "log", name="training")


def test_a_crash_names_the_log_and_shows_its_end(tmp_path):
    log = tmp_path / "log"
    code = "[print(i) for i in range(99)]; raise ZeroDivisionError('deep inside')"
    with pytest.raises(ProcessError) as caught:
        run_logged(python(code), log, name="training")
    message = str(caught.value)
    assert message.startswith(f"training: ended with exit code 1; the end of its log {log}:\n")
    assert message.endswith("ZeroDivisionError: deep inside")
    assert "\n98\n" in message
    assert "\n50\n" not in message
    assert "\n50\n" in log.read_text()


def test_a_killed_process_is_a_failure_too(tmp_path):
    with pytest.raises(ProcessError, match="exit code -9"):
        run_logged(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), tmp_path / "log", name="training")
