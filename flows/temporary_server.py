"""Prefect's temporary server as a process of ours: begun while a run's modules load, and ended however the run ends.

The one that Prefect starts by itself begins with the first flow, which waits for it some ten seconds on two cores, and
stays behind for ever when the run is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.request import urlopen

from train.process import as_parent, end_process, end_with_parent

# as Prefect starts its own: no pages, nothing that runs beside the API
ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class TemporaryServer:
    """Begun at once; nothing is, where `PREFECT_API_URL` or a profile of Prefect's names a server."""

    def __init__(self) -> None:
        from prefect.context import refresh_global_settings_context
        from prefect.settings import PREFECT_API_URL

        self._url = ""
        if PREFECT_API_URL.value():
            return
        with socket.create_server(("127.0.0.1", 0)) as listening:  # who asks before the server answers, waits
            self._url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.temporary_server", str(listening.fileno())],
                env=os.environ | ENVIRONMENT | as_parent(),
                stdin=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
                start_new_session=True,  # Ctrl-C is for the run, which then tells the server how it ended
            )
        atexit.register(end_process, process)
        # for the whole process: Prefect hands on the last lines of a log when it ends, outside of any context
        os.environ["PREFECT_API_URL"] = self._url
        refresh_global_settings_context()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Wait for it. Inside, flows do not tell it every three minutes that they live: nobody reads that from a server
        that ends with them, and every flow would wait for its teller at its end. Nor do they name pages, which it has
        none of."""
        if not self._url:
            yield
            return
        from prefect.settings import (
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
            PREFECT_UI_URL,
            temporary_settings,
        )

        from flows.process import ProcessError

        try:
            urlopen(f"{self._url}/health", timeout=PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()).close()
        except OSError as error:
            told = f"Prefect's temporary server did not start ({error}); what it said is above"
            raise ProcessError(f"{told}. Or start one, `prefect server start`, and set PREFECT_API_URL") from error
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_UI_URL: ""}):
            yield


def serve(descriptor: int) -> None:
    """Be the server, on a socket that listens already."""
    import uvicorn

    end_with_parent()
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
