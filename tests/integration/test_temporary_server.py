"""The temporary server that a command starts before its flow does: it is the one that Prefect then uses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.prefect_server import own_environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ASK = """
import json
import psutil
from flows.temporary_server import TemporaryServer

server = TemporaryServer()
with server.ready():
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    below = lambda: [each.pid for each in psutil.Process().children()]
    before = below()

    @flow
    def asked():
        client = get_client(sync_client=True)
        return [str(client.api_url), client.api_healthcheck() is None]

    url, healthy = asked()
    print(json.dumps([before, before == below(), url, healthy, get_current_settings().flows.heartbeat_frequency]))
"""


FOR_EVER = """
import time
import psutil
from flows.temporary_server import TemporaryServer

with TemporaryServer().ready():
    print(psutil.Process().children()[0].pid, flush=True)
    time.sleep(600)
"""


def environment(folder):
    return own_environment(folder) | {"PYTHONPATH": str(ROOT)}


def answer(folder, **more):
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment(folder) | more, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_flow_uses_the_server_that_was_begun(tmp_path):
    started, no_other, url, healthy, heartbeat = json.loads(answer(tmp_path))
    assert len(started) == 1 and no_other and healthy
    assert url.startswith("http://127.0.0.1:") and heartbeat is None
    assert not psutil.pid_exists(started[0])  # it ended with its process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_a_run_that_is_killed(tmp_path, number):
    command = [sys.executable, "-c", FOR_EVER]
    with subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        server = psutil.Process(int(run.stdout.readline()))
        run.send_signal(number)
    server.wait(60)


def test_nothing_is_started_where_a_server_is_named(tmp_path, shared_api):
    started, no_other, url, healthy, heartbeat = json.loads(answer(tmp_path, PREFECT_API_URL=shared_api))
    assert started == [] and no_other and healthy
    assert url.startswith(shared_api) and heartbeat == 180
