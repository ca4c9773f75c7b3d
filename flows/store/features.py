"""The feature stores behind the URL: shards of gradients that other machines have computed need not be computed here.

A shard is named for the hash of its note, which has the checksums of its files, so it is compared with its name when it
comes down and cannot be taken for another. Files beside the shards have a checksum file each, which goes up last.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from curate.influence.features.shard import NOTE, DamagedShardError, check_files, is_shard
from flows.store.folder import is_inside
from flows.store.mirror import Mirror

CHECKSUM = ".sha256"
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def shared(mirror: Mirror | None, root: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Fetch what is there of these feature stores of the local store `root`, and afterwards, also of a pass that
    failed, upload what is new."""
    if mirror is None:
        yield
        return
    names = [folder.relative_to(root).as_posix() for folder in folders]
    for name in names:
        _pull(mirror, root, name)
    try:
        yield
    finally:
        for name in names:
            _push(mirror, root, name)


def _pull(mirror: Mirror, root: Path, name: str) -> None:
    there = {each.removeprefix(f"{name}/") for each in mirror.list(name)}
    there = {each for each in there if is_inside(each)}
    folder = root / name
    shards = sorted({each.partition("/")[0] for each in there if each.endswith(f"/{NOTE}")})
    for shard in shards:
        if is_shard(folder / shard) and not (folder / shard).exists():
            _pull_shard(mirror, folder, f"{name}/{shard}", [e for e in there if e.startswith(f"{shard}/")])
    beside = [each for each in there if "/" not in each and not (folder / each).exists()]
    mirror.download({f"{name}/{each}": folder / each for each in sorted(beside, key=_last_checksums)})


def _pull_shard(mirror: Mirror, folder: Path, name: str, files: Sequence[str]) -> None:
    """One shard, whole or not at all; a damaged one is removed there, so that it is uploaded again."""
    shard = name.rpartition("/")[2]
    fetched = folder / f".partial-{uuid.uuid4().hex}" / shard
    try:
        mirror.download({f"{name}/{each.partition('/')[2]}": fetched / each.partition("/")[2] for each in files})
        check_files(fetched)
        fetched.rename(folder / shard)
    except DamagedShardError as error:
        logger.warning("store %s: %s is damaged there (%s); it is computed again", mirror.url, name, error)
        mirror.remove(f"{name}/{NOTE}")
    finally:
        shutil.rmtree(fetched.parent, ignore_errors=True)


def _push(mirror: Mirror, root: Path, name: str) -> None:
    """What is not there yet; of a shard its note last, and every checksum after its file."""
    folder = root / name
    if not folder.is_dir():
        return
    there = mirror.list(name)
    shards = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_shard(path)]
    new = [shard for shard in shards if f"{name}/{shard.name}/{NOTE}" not in there]
    files = [path for shard in new for path in sorted(shard.iterdir()) if path.name != NOTE]
    mirror.upload(root, [path.relative_to(root).as_posix() for path in files])
    mirror.upload(root, [f"{name}/{shard.name}/{NOTE}" for shard in new])
    beside = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors", CHECKSUM)]
    missing = [each for each in beside if not each.startswith(".") and there.get(f"{name}/{each}") is None]
    for last in (False, True):
        mirror.upload(root, [f"{name}/{each}" for each in missing if each.endswith(CHECKSUM) is last])


def _last_checksums(name: str) -> tuple[bool, str]:
    return name.endswith(CHECKSUM), name
