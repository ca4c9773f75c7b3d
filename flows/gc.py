"""What of a store nobody refers to any more, and removing it: behind `equipoise gc`.

Kept is what the kept runs' records name, what promotions name, what a running process relies on, and whatever else was
used in the last days: a curation without training leaves no record, and an interrupted run will go on. Nothing here
costs more than time: what is removed by mistake is made again by the same configuration. While it decides and removes,
no further process comes to use the store.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from flows.config import ConfigError
from flows.runs import RUNS, order_of, read_run
from flows.store.errors import in_words
from flows.store.folder import KEY, MANIFEST
from flows.store.locks import RUNNING, collecting, lock_file, uses
from flows.store.opening import is_url

FEATURES, PROMOTED, GRADIENTS = "features", "promoted", "gradients"
UNRECORDED_DAYS = 14.0  # as git keeps objects that nothing refers to
LEFTOVER = re.compile(rf"({KEY.pattern})\.(partial|fetched|removed|damaged-\d+)")
SHARD = re.compile(r"[0-9a-f]{20}")
DAY_S = 86400.0


@dataclass(frozen=True)
class Item:
    """One thing that may go. kind: the stage, `features` or `runs`; why: in words; size: bytes that it alone holds."""

    kind: str
    path: Path
    why: str
    key: str | None = None


@dataclass
class Collected:
    """What may go or went. freed: kind -> bytes on the disk (a file with another link elsewhere frees nothing); left:
    what was spared in the end, with the reason."""

    items: list[Item] = field(default_factory=list)
    freed: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    kept_runs: int = 0

    def in_words(self, removed: bool) -> str:
        counts = Counter(item.kind for item in self.items)
        lines = [
            f"{kind:<16} {counts[kind]:>6}  {in_words(size):>10}"
            for kind, size in sorted(self.freed.items(), key=lambda each: (-each[1], each[0]))
        ]
        total = in_words(sum(self.freed.values()))
        verb = "freed" if removed else "would be freed; nothing was removed: add --yes to remove it"
        return "\n".join([*lines, *self.left, f"{self.kept_runs} run(s) kept; {total} {verb}"])


def collect(
    store: str,
    *,
    keep: int | None = None,
    keep_days: float | None = None,
    unrecorded_days: float = UNRECORDED_DAYS,
    remove: bool = False,
) -> Collected:
    """Find what may go and, if `remove`, remove it.

    keep: latest runs of each name; keep_days: runs that ended in the last days; both: what either keeps; neither: all
    recorded runs. unrecorded_days: how long to keep what no recorded run refers to since its last use. Raises
    `ConfigError` for a place that is no store.
    """
    if is_url(store):
        raise ConfigError(
            f"{store}: a bucket is not collected, since nobody can know which machines are using it; give it a "
            "life-cycle rule, and collect the local copy with --store .equipoise-cache/NAME"
        )
    root = Path(store)
    if not root.is_dir():
        raise ConfigError(f"no store at {root}; name it with --store")
    (root / RUNNING).mkdir(exist_ok=True)
    with collecting(root):
        return _Collection(root, keep, keep_days, unrecorded_days).run(remove)


class _Collection:
    def __init__(self, root: Path, keep: int | None, keep_days: float | None, unrecorded_days: float) -> None:
        self.root, self.keep, self.keep_days = root, keep, keep_days
        self.now = time.time()
        self.unused_before = self.now - unrecorded_days * DAY_S
        self.promoted = "\n".join(
            path.read_text(errors="replace") for path in sorted((root / PROMOTED).rglob("*.json"))
        )
        self.found = Collected()
        self.referred: set[str] = set()  # stage/key of the kept runs

    def run(self, remove: bool) -> Collected:
        superseded = self._runs()
        used, holders = uses(self.root)
        items = [*self._stages(used), *superseded]
        going = {item.path for item in items}
        if holders:
            self.found.left.append(f"feature shards were left alone: the store is in use by {', '.join(holders)}")
        else:
            items += self._features(going)
        sizes = _Sizes(item.path for item in items)
        for item in items:
            freed = sizes.alone(item.path)
            if remove and not self._remove(item):
                continue
            self.found.items.append(item)
            self.found.freed[item.kind] = self.found.freed.get(item.kind, 0) + freed
        return self.found

    def _runs(self) -> list[Item]:
        """Note what kept runs refer to; the records of the others may go."""
        superseded = []
        for folder in _folders(self.root / RUNS):
            records = sorted(folder.glob("*.json"), key=order_of, reverse=True)
            for place, path in enumerate(records):
                try:
                    run = read_run(path)
                except ConfigError as error:
                    self.found.left.append(f"left alone: {error}")
                    continue
                if self._is_kept(place, path):
                    self.found.kept_runs += 1
                    self.referred |= {f"{output.stage}/{output.key}" for output in run.stages.values()}
                else:
                    superseded.append(Item(RUNS, path, f"run {folder.name} has {place} later one(s)"))
        return superseded

    def _is_kept(self, place: int, path: Path) -> bool:
        if self.keep is None and self.keep_days is None:
            return True
        if f"{path.parent.name}/{path.stem}" in self.promoted or path.stem in self.promoted:
            return True
        recent = self.keep_days is not None and path.stat().st_mtime >= self.now - self.keep_days * DAY_S
        return recent or (self.keep is not None and place < self.keep)

    def _stages(self, used: set[str]) -> Iterator[Item]:
        for folder in _folders(self.root):
            if folder.name in (FEATURES, PROMOTED, RUNS):
                continue
            for path in sorted(folder.iterdir()):
                leftover = LEFTOVER.fullmatch(path.name)
                key = leftover[1] if leftover else path.name
                if not KEY.fullmatch(key) or f"{folder.name}/{key}" in used:
                    continue
                if leftover:
                    done = (folder / key).exists() or leftover[2].startswith(("damaged", "removed"))
                    if done or self._is_unused(path):
                        yield Item(folder.name, path, f"left by a run that was interrupted: {leftover[2]}", key)
                elif (path / MANIFEST).exists() and self._is_free(folder.name, path):
                    yield Item(folder.name, path, "no kept run refers to it", key)
            for lock in sorted(folder.glob(".*.lock")):
                key = lock.name[1:-5]
                if KEY.fullmatch(key) and not any(folder.glob(f"{key}*")) and f"{folder.name}/{key}" not in used:
                    yield Item(folder.name, lock, "a lock of nothing", key)

    def _is_free(self, stage: str, path: Path) -> bool:
        referred = f"{stage}/{path.name}" in self.referred or path.name in self.promoted
        return not referred and self._is_unused(path)

    def _is_unused(self, path: Path) -> bool:
        return path.stat().st_mtime < self.unused_before

    def _features(self, going: set[Path]) -> Iterator[Item]:
        """Shards that no gradients stage holds which stays, leftovers, and stores without any shard left."""
        needed = {
            shard.name
            for stage in _folders(self.root / GRADIENTS)
            if stage not in going and KEY.fullmatch(stage.name)
            for shard in stage.glob("checkpoint-*/*")
            if shard.is_dir()
        }
        for store in _folders(self.root / FEATURES):
            shards = [path for path in _folders(store) if SHARD.fullmatch(path.name)]
            free = [path for path in shards if path.name not in needed and self._is_unused(path)]
            if len(free) == len(shards) and self._is_unused(store):
                yield Item(FEATURES, store, "no kept run has used these features")
                continue
            for path in free:
                yield Item(FEATURES, path, "no kept run has used this shard")
            for path in sorted(store.iterdir()):
                if path.name.startswith(".partial-") or ".damaged" in path.name:
                    yield Item(FEATURES, path, "left by a run that was interrupted")

    def _remove(self, item: Item) -> bool:
        """Remove an item, unless somebody has come to use it meanwhile."""
        if item.key is None:
            _discard(item.path)
            return True
        place = item.path.parent / item.key
        try:
            with FileLock(lock_file(place)).acquire(timeout=0):
                if f"{item.kind}/{item.key}" in uses(self.root)[0]:
                    raise Timeout(str(place))
                gone = place.with_name(f"{item.key}.removed")
                if item.path == place:  # a stage is whole or not there at all
                    place.rename(gone)
                    _discard(gone)
                else:
                    _discard(item.path)
                if not any(item.path.parent.glob(f"{item.key}*")):
                    place.with_name(f".{item.key}.holder").unlink(missing_ok=True)
                    lock_file(place).unlink(missing_ok=True)  # whoever waits for it sees that it is gone
        except Timeout:
            self.found.left.append(f"left alone, in use: {item.path}")
            return False
        return True


class _Sizes:
    """Bytes that removing the items gives back: a file with links that stay gives none, and one counts once."""

    def __init__(self, paths: Iterator[Path] | Sequence[Path]) -> None:
        self.links: Counter[tuple[int, int]] = Counter()
        for path in paths:
            for found in _inodes(path):
                self.links[found.st_dev, found.st_ino] += 1

    def alone(self, path: Path) -> int:
        total = 0
        for found in _inodes(path):
            name = found.st_dev, found.st_ino
            if self.links[name] >= found.st_nlink:
                total += found.st_blocks * 512
                self.links[name] = 0
        return total


def _inodes(path: Path) -> Iterator[os.stat_result]:
    if path.is_symlink() or path.is_file():
        yield path.lstat()
    else:
        for each in path.rglob("*"):
            if not each.is_dir():
                yield each.lstat()


def _folders(path: Path) -> list[Path]:
    """Folders in `path` that are no links and not hidden."""
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith("."))


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
