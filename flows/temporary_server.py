"""Prefect's temporary server, begun while the modules of a run still load, so that its start is not waited for.

Prefect starts it when the first flow does, which then waits some ten seconds on two cores: three to import the server's
code, seven until its process answers. Prefect takes a server that runs already for its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import Thread


class TemporaryServer:
    """Nothing is started where `PREFECT_API_URL` names a server."""

    def __init__(self) -> None:
        from prefect.settings import PREFECT_API_URL

        self._starting: Thread | None = None
        if not PREFECT_API_URL.value():
            # imported here, not by the thread, which would import at the same time as everything else
            from prefect.server.api.server import SubprocessASGIServer

            self._starting = Thread(target=_start, args=(SubprocessASGIServer(),), daemon=True)
            self._starting.start()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Wait for it. Inside, flows do not tell it every three minutes that they live: nobody reads that from a server
        that ends with them, and every flow would wait for its teller at its end."""
        if self._starting is None:
            yield
            return
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        self._starting.join()
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield


def _start(server: object) -> None:
    with contextlib.suppress(Exception):  # the flow tries again, and then says why
        server.start()  # type: ignore[attr-defined]
