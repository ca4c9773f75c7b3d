"""Which errors may pass by themselves: the network and services that are busy or restart, never data or settings.

Clients raise their own kinds (httpx and httpx2 of huggingface_hub, requests, urllib3, aiohttp, botocore); they are
known here by name and HTTP status, so that none of them has to be imported. The cause decides, however it was wrapped.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

BUSY = {408, 425, 429, 500, 502, 503, 504}  # HTTP: timed out, too early, too many requests, the server's own trouble
NETWORK = {
    "http": {"IncompleteRead"},
    "httpx": {"TransportError"},
    "httpx2": {"TransportError"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "urllib3": {"ProtocolError", "TimeoutError", "NewConnectionError", "MaxRetryError"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "botocore": {"HTTPClientError", "ResponseParserError"},
}
# a host, a route or a network share that is away for now; not a full disk, a missing file or a refused permission
AWAY = {
    getattr(errno, name)
    for name in ("EAGAIN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ESTALE", "ETIMEDOUT")
    if hasattr(errno, name)
}
FORBIDDEN = {"OfflineModeIsEnabled"}  # a setting that looks like a failed connection


def is_transient(error: BaseException) -> bool:
    """Whether the error, or what caused it, may be gone at the next attempt."""
    chain = list(_causes(error))
    if any(each.__name__ in FORBIDDEN for one in chain for each in type(one).__mro__):
        return False
    return any(_passes(one) for one in chain)


def _passes(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status in BUSY
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in AWAY:
        return True
    return any(each.__name__ in NETWORK.get(each.__module__.partition(".")[0], ()) for each in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that a client's error tells, wherever it keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for name in ("status", "code"):  # aiohttp, urllib
        found = getattr(error, name, None) if found is None else found
    return found if isinstance(found, int) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, as a traceback would show them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
