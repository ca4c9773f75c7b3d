"""A real Prefect server on loopback with a home of its own, and questions to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import httpx

from tests.ports import unused_port

START_SECONDS = 300
SETTLE_SECONDS = 60
PLANTED = "hf_PLANTEDinENVIRONMENT"  # a token that must be found nowhere


def own_environment(folder):
    """This process's environment with a Prefect home of its own, no network, no API yet."""
    own = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "160",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | own


@contextlib.contextmanager
def started_server(folder, environment, *options):
    """The address of the API of a server that lives as long as the context."""
    port = unused_port()
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), *options]
    own = environment | {"PREFECT_SERVER_UI_API_URL": address}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_healthy(address, server, folder / "server.log")
        yield address
    finally:
        end(server)


def end(process, seconds=30):
    """End a process that leads a session, with all that is in it."""
    process.terminate()
    try:
        process.wait(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_healthy(address, server, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=10).json() is True:
                return
        time.sleep(0.5)
    raise AssertionError(f"no server after {START_SECONDS} s:\n{log.read_text()}")


def ask(api, what, **body):
    """Everything the server holds of a kind."""
    return httpx.post(f"{api}/{what}/filter", json=body, timeout=60).raise_for_status().json()


def settled(api, what, done, **body):
    """Everything the server holds of a kind, once `done`: it writes down task runs and logs a little later than it is
    told of them."""
    return once(done, lambda: ask(api, what, **body))


def settled_logs(api, done):
    """Every line of the server's log, oldest first, once `done`: it gives 200 at a time."""

    def read():
        found = []
        while len(page := ask(api, "logs", limit=200, offset=len(found), sort="TIMESTAMP_ASC")) == 200:
            found += page
        return found + page

    return once(done, read)


def once(done, read):
    """What `read` finds when it is `done`, or at the end of our patience."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while not done(found := read()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found
