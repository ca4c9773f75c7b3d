"""flows.stages.training: how many threads training and gradients get, since the last bits depend on it."""

import os

import pytest

from flows.stages.training import launch


@pytest.mark.parametrize(("told", "threads"), [("1", 1), (None, os.cpu_count())])
def test_threads_are_those_the_environment_says_else_all(tmp_path, monkeypatch, told, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    launch("tests.flows.say_threads", tmp_path / "threads", None, tmp_path / "log", "threads")
    assert (tmp_path / "threads").read_text() == str(threads)
