"""The same store behind a URL of fsspec's (`s3://bucket/prefix`): what is complete there need not be made here.

An object store renames nothing, so the manifest, uploaded last, is what makes a stage complete there too, and every
byte that comes down is compared with its checksum before the stage appears here. A lost connection is retried for two
minutes; what an interrupted upload left is not complete, and the next run uploads it again.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from flows.store.digests import file_digest
from flows.store.errors import StoreError
from flows.store.folder import MANIFEST, DamagedError, check_folder, read_manifest
from train.transient import is_transient

PATIENCE_S = 120.0
AT_ONCE = 8
MARK = ".equipoise-store.json"
# one quick failure each, since tenacity does the waiting and says so
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}
}
logger = logging.getLogger(__name__)


class Mirror:
    """A store's counterpart at `url`, by the same relative names. patience_s: how long a lost connection is retried.

    Raises `StoreError` naming the URL and the remedy. Credentials are what the protocol's library finds in the
    environment.
    """

    def __init__(self, url: str, patience_s: float | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        protocol = url.partition("://")[0]
        try:
            self._files, base = fsspec.url_to_fs(self.url, **OPTIONS.get(protocol, {}))
        except ImportError as error:
            raise StoreError(f"store {url}: {protocol}:// needs a package that is not installed: {error}") from error
        self._base = base.rstrip("/")
        self._checked = False

    def check(self) -> None:
        """Fail before any work, not after it, where nothing can be written."""
        if not self._checked:
            content = json.dumps({"format": 1}).encode()
            self._patiently("writing", lambda: self._files.pipe_file(self._at(MARK), content))
            self._checked = True

    def push(self, root: Path, stage: str, key: str) -> None:
        """Upload a complete stage of the local store, unless it is there already; the manifest last."""
        if self._read(f"{stage}/{key}/{MANIFEST}") is not None:
            return
        folder = root / stage / key
        names = read_manifest((folder / MANIFEST).read_bytes(), key)["files"]
        self.upload(root, [f"{stage}/{key}/{name}" for name in names])
        self.upload(root, [f"{stage}/{key}/{MANIFEST}"])

    def pull(self, root: Path, stage: str, key: str) -> dict[str, Any] | None:
        """Download a stage that is complete there and return its manifest; None where there is none.

        What does not match its checksums is not taken, and no longer complete there either.
        """
        text = self._read(f"{stage}/{key}/{MANIFEST}")
        if text is None:
            return None
        fetched = root / stage / f"{key}.fetched"
        try:
            files = read_manifest(text, key)["files"]
            if fetched.exists():  # of a download that was interrupted
                _drop_strangers(fetched, files)
            wanted = [name for name, told in files.items() if not _is_here(fetched / name, told["sha256"])]
            self.download({f"{stage}/{key}/{name}": fetched / name for name in wanted})
            fetched.mkdir(parents=True, exist_ok=True)
            (fetched / MANIFEST).write_bytes(text)
            manifest = check_folder(fetched, key)
        except (DamagedError, FileNotFoundError) as error:
            logger.warning(
                "store %s: stage %s, key %s is damaged there (%s); it is made again", self.url, stage, key, error
            )
            self.remove(f"{stage}/{key}/{MANIFEST}")
            shutil.rmtree(fetched, ignore_errors=True)
            return None
        fetched.rename(root / stage / key)
        logger.info("stage %s: fetched from %s", stage, self.url)
        return manifest

    def list(self, folder: str) -> dict[str, int]:
        """Relative name -> bytes of every file there is under `folder`."""

        def found() -> dict[str, Any]:
            self._files.invalidate_cache()
            return self._files.find(self._at(folder), detail=True)

        try:
            files = self._patiently("listing", found)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(f"{self._base}/"): int(info["size"] or 0) for name, info in files.items()}

    def upload(self, root: Path, names: Sequence[str]) -> None:
        """Files of the local store, each under its own name."""

        def one(name: str) -> None:
            self._patiently(f"uploading {name}", lambda: self._files.put_file(str(root / name), self._at(name)))

        _each(one, names)

    def download(self, wanted: Mapping[str, Path]) -> None:
        """name there -> path here. Raises `FileNotFoundError` for one that is not there."""

        def one(name: str) -> None:
            path = wanted[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                self._patiently(f"downloading {name}", lambda: self._files.get_file(self._at(name), str(partial)))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

        _each(one, list(wanted))

    def remove(self, name: str) -> None:
        self._patiently(f"removing {name}", lambda: self._files.rm_file(self._at(name)))

    def _read(self, name: str) -> bytes | None:
        try:
            return self._patiently(f"reading {name}", lambda: self._files.cat_file(self._at(name)))
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _patiently(self, what: str, action: Callable[[], Any]) -> Any:
        """The action's result; retried while the connection is lost. `FileNotFoundError` passes through."""

        def told(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            logger.warning("store %s: %s failed (%s); trying again", self.url, what, _in_words(error))

        retrying = Retrying(
            stop=stop_after_delay(self.patience_s),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            retry=retry_if_exception(is_transient),
            before_sleep=told,
            reraise=True,
        )
        try:
            return retrying(action)
        except FileNotFoundError as error:
            if what == "writing" or what.startswith("uploading"):  # no bucket
                raise StoreError(
                    f"store {self.url}: {_in_words(error)}; create the bucket, or correct `store`"
                ) from error
            raise
        except Exception as error:
            raise StoreError(
                f"store {self.url}: {what} failed ({_in_words(error)}); check the address, the network and the "
                "credentials in the environment, then run again: what is finished is kept here, and nothing that is "
                "half uploaded is taken for complete"
            ) from error


def _in_words(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _each(action: Callable[[str], None], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(action, names):
            pass


def _is_here(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and file_digest(path) == sha256


def _drop_strangers(folder: Path, names: Mapping[str, Any]) -> None:
    """Remove what an interrupted download left of another upload."""
    for path in folder.rglob("*"):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
