"""Who is working on what: one lock per stage output, and one note per process of all it relies on.

Both are `flock`s, which the kernel lifts when their holder dies, however it dies. A lock's holder writes down who it
is beside it, so that whoever waits can say for whom. The note of a process lists the outputs that it has found or made
and will still read: `equipoise gc` leaves them alone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

RUNNING = ".running"
GC_LOCK = "gc.lock"
REMIND_S = 300.0  # between two messages of one who waits
logger = logging.getLogger(__name__)


def lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a stage's folder; waits for another holder, and says for whom."""
    lock, note = FileLock(lock_file(folder)), folder.with_name(f".{folder.name}.holder")
    with _acquired(lock, note, what):
        with contextlib.suppress(OSError):  # on a full disk the lock matters, its note does not
            note.write_text(json.dumps(_whoami()))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)


def _acquired(lock: FileLock, note: Path, what: str):
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        waiting = time.monotonic()
    while True:
        logger.warning(
            "%s: waiting for %s, which works on the same output; it is shared when done", what, holder_in_words(note)
        )
        try:
            acquired = lock.acquire(timeout=REMIND_S)
        except Timeout:
            continue
        logger.warning("%s: waited %.0f s, going on", what, time.monotonic() - waiting)
        return acquired


def holder_in_words(note: Path) -> str:
    """Who holds a lock, from the note beside it."""
    try:
        return _holder_in_words(note.read_text())
    except OSError:
        return _holder_in_words("")


def _whoami() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class _Note:
    """This process's note in one store: a locked file with a line per output."""

    def __init__(self, root: Path) -> None:
        folder = root / RUNNING
        folder.mkdir(parents=True, exist_ok=True)
        self.pid = os.getpid()
        self.path = folder / f"{uuid.uuid4().hex}.uses"
        self.lines: set[str] = set()
        self.lock = FileLock(self.path, thread_local=False)
        with collecting(root):  # one under way ends first: it counts on who was there at its start
            for dead in folder.glob("*.uses"):
                _is_dead(dead)
            self.lock.acquire()
            self.path.write_text(json.dumps(_whoami()) + "\n")
        atexit.register(self._forget)

    def _forget(self) -> None:
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def add(self, line: str) -> None:
        if line not in self.lines:
            with self.path.open("a") as file:
                file.write(f"{line}\n")
            self.lines.add(line)


_notes: dict[Path, _Note] = {}
_guard = threading.Lock()


def note_use(root: Path, stage: str, key: str) -> None:
    """Write down that this process relies on an output, until it ends. Raises `OSError` where it cannot be written."""
    with _guard:
        place = root.resolve()
        note = _notes.get(place)
        if note is None or note.pid != os.getpid() or not note.path.exists():  # a fork writes its own
            note = _notes[place] = _Note(place)
        note.add(f"{stage}/{key}")


@contextlib.contextmanager
def collecting(root: Path) -> Iterator[None]:
    """Alone in deciding what may go: while this is held, no further process comes to rely on the store."""
    lock = FileLock(root / RUNNING / GC_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("store %s: waiting for `equipoise gc`, which is removing what nobody refers to", root)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def uses(root: Path) -> tuple[set[str], list[str]]:
    """`stage/key` of all that running processes rely on, and who the others are, for one who holds `collecting`.

    Ask again before each removal: a running process may have come to rely on more.
    """
    used: set[str] = set()
    holders = []
    own = _notes.get(root.resolve())
    for path in sorted((root / RUNNING).glob("*.uses")):
        if own is not None and path.name == own.path.name:
            used |= own.lines
        elif not _is_dead(path):
            first, *lines = path.read_text().splitlines() or [""]
            used |= set(lines)
            holders.append(_holder_in_words(first))
    return used, holders


def _is_dead(path: Path) -> bool:
    """Whether the process that wrote a note has ended; its note is removed then."""
    try:
        with FileLock(path).acquire(timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _holder_in_words(text: str) -> str:
    try:
        told = json.loads(text)
        return f"process {told['pid']} on {told['host']} (there since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"  # it has not written its note yet
