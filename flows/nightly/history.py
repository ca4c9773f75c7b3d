"""The finished nights of a name, one small file each: `<store>/promoted/<name>/history/000001.json`.

A night that failed is in Prefect and not here; a night that was refused is. They are known by number, since clocks are
set back.
"""

from __future__ import annotations

from pathlib import Path

from flows.config import ConfigError
from flows.nightly.files import PROMOTED, RecordError, promoted_folder, read_record, write_whole
from flows.nightly.night import Night
from flows.store import StageStore
from train.names import nearest

HISTORY = "history"


class History:
    def __init__(self, store: StageStore, name: str) -> None:
        self.store, self.name = store, name
        self.folder = promoted_folder(store.root, name) / HISTORY

    def write(self, night: Night) -> None:
        """Record a night; one that is recorded stays as it is."""
        path = self.path(night.number)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, night)

    def fetch(self) -> None:
        """The nights that other machines have left behind the store's URL."""
        if self.store.mirror:
            place = self.folder.relative_to(self.store.root)
            names = {name: self.store.root / name for name in self.store.mirror.list(place.as_posix())}
            names = {name: path for name, path in names.items() if path.parent == self.folder and path.stem.isdigit()}
            self.store.mirror.download({name: path for name, path in names.items() if not path.exists()})

    def last(self) -> int:
        """Number of the last night; 0 before the first."""
        return max(self._numbers(), default=0)

    def read(self, number: int) -> Night:
        """One night. Raises `ConfigError` naming those there are."""
        path = self.path(number)
        if not path.is_file():
            self.fetch()
        if not path.is_file():
            raise ConfigError(f"{self.name!r} has no night {number}; there are {_span(self._numbers())}")
        try:
            return read_record(path, Night)
        except RecordError as error:
            raise ConfigError(str(error)) from error

    def nights(self) -> list[Night]:
        """All of them, the first first. Raises `ConfigError` naming the names there are."""
        self.fetch()
        numbers = self._numbers()
        if not numbers:
            names = sorted(path.parent.name for path in (self.store.root / PROMOTED).glob(f"*/{HISTORY}"))
            known = f"; names there: {', '.join(names)}{nearest(self.name, names)}" if names else ""
            raise ConfigError(f"no night of {self.name!r} is recorded in the store {self.store.name}{known}")
        return [self.read(number) for number in numbers]

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit())

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def _span(numbers: list[int]) -> str:
    if not numbers:
        return "none yet"
    return f"{numbers[0]} to {numbers[-1]}" if numbers[1:] else str(numbers[0])
