"""Where a nightly's own files are, and how they are written: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.store import StageStore

PROMOTED, PIN = "promoted", "warmup.json"
PARTIAL = ".partial"


class Record(BaseModel):
    """A value that is written as JSON and read again."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Record)


class RecordError(ValueError):
    """A record that cannot be read; the message names the file."""


class Kept(Record):
    """A stage's output, as `equipoise gc` reads it: what a file under `promoted/` names is kept."""

    stage: str
    key: str


def promoted_folder(root: Path, name: str) -> Path:
    """The folder of the nightly runs of one name. root: the store's own folder."""
    return root / PROMOTED / name


def read_record(path: Path, kind: type[T]) -> T:
    """Raises `RecordError` where the file is not there or is none of its kind."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        told = "; ".join(" ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()[:3])
        raise RecordError(f"{path} is no record that this version of Equipoise can read: {told}") from error


def share(store: StageStore, *paths: Path) -> None:
    """Upload files of the local store, in this order, where it is behind a URL."""
    if store.mirror is not None:
        for path in paths:
            store.mirror.upload(store.root, [path.relative_to(store.root).as_posix()])


def write_whole(path: Path, record: BaseModel) -> None:
    """Write `record` as JSON; a reader sees the old file or the new one, and no loss of power leaves a part."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(record.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
