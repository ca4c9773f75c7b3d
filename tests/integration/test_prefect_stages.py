"""States, retries and time limits of a stage, in Prefect's engine and with a real server."""

from __future__ import annotations

import sys
import time

import psutil
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.config import ConfigError
from flows.execution import ExecutionSettings, StageTimeoutError
from flows.process import ProcessError, run_logged
from flows.stage_run import run_stage
from flows.store import StageOutput

pytestmark = pytest.mark.slow


class Config:
    """What a stage's run reads of a configuration."""

    name = "stages"

    def __init__(self, **execution):
        self.execution = ExecutionSettings(retry_delay_seconds=0, **execution)


@pytest.fixture(scope="module", autouse=True)
def server(shared_api):
    with temporary_settings({PREFECT_API_URL: shared_api}):
        yield


def in_flow(work, **execution):
    """The final state of a flow of this one stage, and of the stage."""
    seen = {}

    def keep(task, run, state):
        seen["stage"] = state

    @flow
    def one():
        import flows.stage_run

        original = flows.stage_run._stage
        watched = original.with_options(on_completion=[keep], on_failure=[keep])
        flows.stage_run._stage = watched
        try:
            return run_stage("work", work, Config(**execution))
        finally:
            flows.stage_run._stage = original

    return one(return_state=True), seen["stage"]


@pytest.mark.parametrize(("cached", "name"), [(True, "Cached"), (False, "Completed")])
def test_a_stage_s_state_tells_whether_it_was_there(tmp_path, cached, name):
    output = StageOutput("work", "key", tmp_path, cached, 1.5, {"rows_in": 3, "rows_out": 3})
    state, stage = in_flow(lambda config: output)
    assert state.name == "Completed"
    assert state.result() == output
    assert (stage.type.value, stage.name) == ("COMPLETED", name)
    assert "rows_in 3" in stage.message


def test_what_passes_is_tried_again_until_it_works(tmp_path):
    attempts = []
    output = StageOutput("work", "key", tmp_path, False, 1.5, {})

    def work(config):
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionResetError("the hub hung up")
        return output

    state, _ = in_flow(work, retries=2)
    assert state.name == "Completed"
    assert len(attempts) == 3


@pytest.mark.parametrize("error", [ConfigError("no such key: budgte"), ProcessError("training: row 3 has no answer")])
def test_what_lasts_fails_the_flow_at_once_with_its_message(error):
    attempts = []

    def work(config):
        attempts.append(1)
        raise error

    state, stage = in_flow(work, retries=2)
    assert len(attempts) == 1
    assert (state.type.value, stage.type.value) == ("FAILED", "FAILED")
    assert str(error) in state.message
    assert "\n" not in state.message


def test_a_stage_over_its_limit_is_ended_with_its_processes(tmp_path):
    log = tmp_path / "log"

    def work(config):
        run_logged([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], log, name="work")

    before = set(psutil.Process().children(recursive=True))
    state, stage = in_flow(work, stage_timeout=2 / 3600)
    assert state.type.value == "FAILED"
    assert "stage work took longer than execution.stage_timeout = 0.000555556 hours" in state.message
    assert stage.name == "TimedOut"
    assert not [each for each in set(psutil.Process().children(recursive=True)) - before if each.is_running()]
    assert log.exists()
    with pytest.raises(StageTimeoutError):
        state.result()


def test_a_stage_that_works_in_this_process_is_ended_too():
    def work(config):
        while True:
            time.sleep(0.01)

    state, _ = in_flow(work, stage_timeout=0.5 / 3600)
    assert "stage work took longer" in state.message


def test_a_secret_in_an_error_is_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted_in_error")

    def work(config):
        raise ValueError("401 for token hf_planted_in_error")

    state, _ = in_flow(work)
    assert "401 for token ***" in state.message
    assert "hf_planted" not in state.message
