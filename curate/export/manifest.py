"""`manifest.json`: what the folder holds, with a checksum of every file in it, and the check that it still does.

Written last; it names every file but itself. Whoever uploads or receives the folder can tell that nothing was changed,
lost or added.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from curate.records import DataError

MANIFEST = "manifest.json"


class ManifestError(DataError):
    """A folder that is no export, or not what its manifest says."""


def write_manifest(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Write `told` with the checksums of all files that lie in the folder now; returns what was written."""
    manifest = {**told, "files": {name: checksum(folder / name) for name in files_of(folder)}}
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder; `ManifestError` if there is none that can be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not all({"sha256", "bytes"} <= entry.keys() for entry in manifest["files"].values()):
            raise KeyError("sha256")
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; give the folder that `equipoise curate` exported") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not the manifest of an export ({error}); export the selection again") from error
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, if the folder holds exactly what it says; else `ManifestError` naming up to five files."""
    manifest = read_manifest(folder)
    expected, found = manifest["files"], set(files_of(folder))
    wrong = [f"{name} is missing" for name in sorted(set(expected) - found)]
    wrong += [f"{name} is not in the manifest" for name in sorted(found - set(expected))]
    wrong += [
        f"{name} was changed" for name in sorted(found & set(expected)) if checksum(folder / name) != expected[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ManifestError(
            f"{folder} is not what its manifest says: {'; '.join(wrong[:5])}{more}. Export the selection again, or put "
            "back what was changed"
        )
    return manifest


def files_of(folder: Path) -> list[str]:
    """All files below the folder but its manifest, by name; a link is a file like another."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def checksum(path: Path) -> dict[str, Any]:
    """sha256 in hexadecimal digits, and bytes."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
