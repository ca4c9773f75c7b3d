"""What is live: one adapter and its dataset, known by links that are switched together in one step.

`<store>/promoted/<name>/live` is a link to a folder `releases/000003` with the links `adapter` and `dataset`, what they
are (`latest.json`) and the night that promoted them (`night.json`). A release is complete before `live` points to it,
and replacing that link is one rename: whoever opens `live/adapter` sees the old or the new one, and adapter, dataset
and record always belong together. `adapter`, `dataset` and `latest.json` beside `live` are links through it. A process
that is killed between any two steps leaves what the next night's `recover` puts right. A reader that opens several
files should resolve the link once (`Path(".../adapter").resolve()`): the stage behind it never changes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from flows.naming import FINETUNE, seed_names
from flows.nightly.files import (
    PARTIAL,
    PIN,
    Kept,
    Record,
    RecordError,
    T,
    promoted_folder,
    read_record,
    share,
    write_whole,
)
from flows.nightly.history import History
from flows.nightly.night import Night
from flows.store import StageStore, StoreError
from flows.store.locks import held
from flows.store.mirror import Mirror

LIVE, RELEASES = "live", "releases"
LATEST, NIGHT, ADAPTER, DATASET = "latest.json", "night.json", "adapter", "dataset"
FORMAT = 1


class Latest(Record):
    """What is live. number: of the night that promoted it; run: that night's record, relative to the store; seeds: of
    its training runs, the first of which is `adapter`; model: digest of the base model; stages: by the pipeline's
    names, all that tells what it was made of."""

    format: int = FORMAT
    name: str
    number: int
    promoted: str
    run: str
    method: str
    seeds: tuple[int, ...]
    model: str
    stages: dict[str, Kept]

    def tuned(self) -> list[Kept]:
        """Its training runs, the first seed's first."""
        return [self.stages[name] for name in seed_names(FINETUNE + self.method, self.seeds)]

    @property
    def exported(self) -> Kept:
        return self.stages[f"export-{self.method}"]


class Promotions:
    """What is live of one name in a store, and the nights that led there."""

    def __init__(self, store: StageStore, name: str) -> None:
        self.store, self.name = store, name
        self.folder = promoted_folder(store.root, name)
        self.history = History(store, name)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One night of a name at a time; another waits, and says for whom."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder, f"nightly {self.name}"):
            yield

    def latest(self) -> Latest | None:
        """What is live, if anything. Raises `StoreError` where its record cannot be read."""
        live = self.folder / LIVE
        if not live.is_symlink():
            return None
        return self._read(live / LATEST, Latest)

    def next_number(self) -> int:
        """By number and not by time: clocks are set back."""
        latest = self.latest()
        return 1 + max(self.history.last(), latest.number if latest else 0)

    def finish(self, night: Night, latest: Latest | None = None) -> None:
        """Record a night; with `latest`, make it live first. latest: of the night's own number."""
        if latest:
            self._release(night, latest)
            self._switch(latest.number)
        self.history.write(night)
        self._tidy()
        self._share()

    def recover(self) -> None:
        """Put right what a killed night left: nothing of it counts but what had become live, which is recorded. Of a
        store behind a URL, also come to where the nights of other machines have led."""
        live = self.folder / LIVE
        if live.is_symlink():
            self.history.write(self._read(live / NIGHT, Night))
            self._link_through()
        self._tidy()
        if self.store.mirror:
            self._catch_up(self.store.mirror)
            self._share()

    def _catch_up(self, mirror: Mirror) -> None:
        """Fetch the history, the pinned warmup, and what is live if it is of a later night than here."""
        self.history.fetch()
        place = self.folder.relative_to(self.store.root).as_posix()
        there, here = self.folder / f".there{PARTIAL}", self.latest()
        names = {f"{place}/{PIN}": self.folder / PIN, f"{place}/{LATEST}": there}
        kept = mirror.list(place)
        mirror.download({name: path for name, path in names.items() if name in kept})
        if there.exists():
            latest = self._read(there, Latest)
            there.unlink()
            if here is None or here.number < latest.number:
                self._release(self.history.read(latest.number), latest)
                self._switch(latest.number)
                self._tidy()

    def _share(self) -> None:
        """Upload the last night and then, if it is the one that is live, what is live."""
        number, latest = self.history.last(), self.latest()
        if number:
            share(self.store, self.history.path(number))
        if latest and latest.number == number:
            share(self.store, self.folder / LATEST)

    def _release(self, night: Night, latest: Latest) -> None:
        """Everything of a release, under its name once it is whole."""
        release = self.folder / RELEASES / f"{latest.number:06d}"
        partial = release.with_name(release.name + PARTIAL)
        for old in (partial, release):  # of a night that was killed before it went live
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        write_whole(partial / LATEST, latest)
        write_whole(partial / NIGHT, night)
        root = Path(*[".."] * 4)  # relative, so that a store can be moved
        tuned = latest.tuned()[0]
        (partial / ADAPTER).symlink_to(root / tuned.stage / tuned.key / ADAPTER)
        (partial / DATASET).symlink_to(root / latest.exported.stage / latest.exported.key / DATASET)
        partial.rename(release)

    def _switch(self, number: int) -> None:
        """The one step by which a release goes live."""
        _point(self.folder / LIVE, Path(RELEASES) / f"{number:06d}")
        self._link_through()

    def _link_through(self) -> None:
        for name in (ADAPTER, DATASET, LATEST):
            link = self.folder / name
            if not link.is_symlink():
                _point(link, Path(LIVE) / name)

    def _tidy(self) -> None:
        """Remove what was never finished, and releases older than the one before the live one, which whoever was about
        to open it still finds."""
        live = self.folder / LIVE
        names = sorted(path.name for path in (self.folder / RELEASES).glob("*"))
        at = names.index(live.readlink().name) if live.is_symlink() else -1
        for name in names:
            if at < 0 or name not in names[max(0, at - 1) : at + 1]:
                shutil.rmtree(self.folder / RELEASES / name)
        for partial in self.folder.rglob(f".*{PARTIAL}"):
            partial.unlink()

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            return read_record(path, kind)
        except RecordError as error:
            raise StoreError(
                f"{error}. Bring it back, or remove the link {self.folder / LIVE}, so that nothing is live and the "
                "next night is the first"
            ) from error


def _point(link: Path, target: Path) -> None:
    """Make `link` a link to `target`, in the place of an earlier one if there is one."""
    partial = link.with_name(f".{link.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
