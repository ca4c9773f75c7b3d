"""Find a stage's output or build it: the one way into and out of the store.

A stage writes into a `.partial` folder; the manifest (with checksums of all files) is written last, then the folder is
renamed: a folder without `.partial` is complete. A folder that no longer matches its checksums is set aside as
`.damaged` and made again. Every byte is read at every run, about 1 GB/s a core: a file that rots on the disk keeps its
times, so nothing less would find it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.store.digests import source_digest, value_digest
from flows.store.errors import StoreError, full_message, is_full, is_unwritable
from flows.store.folder import DamagedError, check_folder, is_name, write_manifest
from flows.store.locks import held, note_use

if TYPE_CHECKING:
    from flows.store.mirror import Mirror

logger = logging.getLogger(__name__)


class Accounting(dict[str, int]):
    """Rows of a stage: `rows_in`, `rows_out` and what became of the others, by reason; checked to add up."""

    def __init__(self, rows_in: int, rows_out: int, **accounted: int) -> None:
        super().__init__(rows_in=rows_in, rows_out=rows_out, **accounted)

    def check(self, stage: str) -> None:
        rest = sum(count for name, count in self.items() if name not in {"rows_in", "rows_out"})
        if self["rows_in"] != self["rows_out"] + rest:
            raise StoreError(f"stage {stage} lost rows: {dict(self)} does not add up; please report this as a bug")


@dataclass(frozen=True)
class StageOutput:
    """A complete stage: where it is, the key others depend on, and what its manifest says."""

    stage: str
    key: str
    path: Path
    cached: bool
    seconds: float
    rows: dict[str, int] = field(default_factory=dict)


class StageStore:
    """Stage outputs under one local folder, and behind a URL where there is a mirror of it."""

    def __init__(self, root: Path, mirror: Mirror | None = None) -> None:
        self.root = Path(root)
        self.mirror = mirror

    @property
    def name(self) -> str:
        """What its user calls it."""
        return self.mirror.url if self.mirror else str(self.root)

    def run(
        self,
        stage: str,
        build: Callable[[Path], Accounting | None],
        *,
        params: Mapping[str, Any],
        inputs: Mapping[str, str],
        code: Sequence[str],
        resumable: bool = False,
    ) -> StageOutput:
        """The output of `stage`: found, or built by `build(folder)`.

        params: plain values; inputs: name -> key or content hash; code: source files and folders the stage's result
        depends on; resumable: the builder finds what an earlier, killed attempt left in its folder. Raises
        `StoreError` for a full disk or a store that cannot be written, with the remedy.
        """
        if not is_name(stage):
            raise StoreError(f"{stage!r} cannot be the name of a stage: letters, digits, '_', '.', '-'")
        identity = {"stage": stage, "params": dict(params), "inputs": dict(inputs), "code": source_digest(code)}
        key = value_digest(identity)
        folder = self.root / stage / key
        partial = folder.with_name(f"{key}.partial")
        with _room(self.root, stage, partial), contextlib.ExitStack() as stack:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(folder, f"stage {stage}"))
                note_use(self.root, stage, key)
            except OSError as error:
                if not (is_unwritable(error) or is_full(error, self.root)):
                    raise
                return self._only_read(stage, key, folder, error)
            found = self._find(stage, key, folder)
            if found:
                return found
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            started = time.monotonic()
            rows = build(partial)
            if rows is not None:
                rows.check(stage)
            seconds = round(time.monotonic() - started, 3)
            write_manifest(partial, identity, key, rows or {}, seconds)
            partial.rename(folder)
            if self.mirror:
                self.mirror.push(self.root, stage, key)
        return StageOutput(stage, key, folder, False, seconds, dict(rows or {}))

    def find(self, stage: str, key: str) -> StageOutput | None:
        """What is complete under a key, here or behind the URL, every byte of it read; None if nowhere. This process
        relies on it from now on."""
        if not (is_name(stage) and is_name(key)):
            raise StoreError(f"{stage!r}/{key!r} is no place in a store")
        folder = self.root / stage / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder, f"stage {stage}"):
            note_use(self.root, stage, key)
            return self._find(stage, key, folder)

    def _find(self, stage: str, key: str, folder: Path) -> StageOutput | None:
        """What an earlier run finished, here or behind the URL, if all of it is still as its manifest says."""
        if self.mirror:
            self.mirror.check()
        found = self._complete(stage, key, folder)
        if self.mirror is None:
            return found
        if found:
            self.mirror.push(self.root, stage, key)  # an earlier upload may have failed
            return found
        return self.fetch(stage, key)

    def fetch(self, stage: str, key: str) -> StageOutput | None:
        """What is behind the URL and not here, brought here; None where it is not there either, or damaged."""
        manifest = self.mirror.pull(self.root, stage, key) if self.mirror else None
        if manifest is None:
            return None
        return StageOutput(stage, key, self.root / stage / key, True, manifest["seconds"], manifest["rows"])

    def _complete(self, stage: str, key: str, folder: Path) -> StageOutput | None:
        """What an earlier run finished here; what is damaged is set aside."""
        if not os.path.lexists(folder):
            return None
        try:
            manifest = check_folder(folder, key)
        except DamagedError as error:
            damage = str(error)
        else:
            with contextlib.suppress(OSError):
                os.utime(folder)  # when it was last used
            return StageOutput(stage, key, folder, True, manifest["seconds"], manifest["rows"])
        asides = (folder.with_name(f"{key}.damaged-{n}") for n in itertools.count(1))
        aside = next(each for each in asides if not os.path.lexists(each))
        folder.rename(aside)
        logger.warning(
            "stage %s: the stored output no longer matches its checksums (%s); set aside as %s", stage, damage, aside
        )
        return None

    def _only_read(self, stage: str, key: str, folder: Path, error: OSError) -> StageOutput:
        """What a store that cannot be written holds complete; it is shared without a lock, since nobody changes it."""
        try:
            manifest = check_folder(folder, key)
        except DamagedError as damage:
            if not is_unwritable(error):
                raise error from None
            raise StoreError(
                f"store {self.root} cannot be written ({error.strerror}: {error.filename}) and holds no complete "
                f"output of stage {stage} for this configuration ({damage}); make it writable, or give another: "
                "--set store=FOLDER"
            ) from error
        return StageOutput(stage, key, folder, True, manifest["seconds"], manifest["rows"])


@contextlib.contextmanager
def _room(root: Path, stage: str, partial: Path) -> Iterator[None]:
    """Turn whatever a full disk made fail into one message. What a stage had begun is left only where it can go on."""
    try:
        yield
    except Exception as error:
        if is_full(error, root):
            raise StoreError(full_message(root, stage, partial)) from error
        raise
