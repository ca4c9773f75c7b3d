"""What each run of the pipeline was: its configuration and the keys of its stages, kept beside the store's stages.

A stage folder does not know which runs used it, and two runs share most of theirs; the record is what makes a run a
thing that can be compared with another, or drawn again. One small JSON file per run, in `<store>/runs/<name>/`, named
for its number and the time it ended; it holds no data. Which of two runs is the later is told by the number, since
clocks are set back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows.config import ConfigError, RunConfig
from flows.store import StageOutput, StageStore, open_store
from flows.store.errors import is_unwritable
from flows.store.folder import is_name
from train.names import nearest

RUNS = "runs"
FORMAT = 1  # of a record; those without one are older: without a number, named for their time alone
NOT_READ = ("warmup", "gradients")  # large, and opened by no reader of finished runs
_NAME = re.compile(r"(?:(?P<number>\d+)-)?(?P<moment>\d{8}T\d{6}Z)(?:-(?P<among>\d+))?")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. config: as it was validated, plain values; stages: by the pipeline's names, in order; store:
    where they are."""

    name: str
    finished: str
    config: dict[str, Any]
    stages: dict[str, StageOutput]
    record: Path
    store: StageStore

    def stage(self, name: str) -> Path:
        """The folder of a stage, fetched if it is behind a URL. Raises `ConfigError` when the run has none or it was
        removed."""
        if name not in self.stages:
            raise ConfigError(f"run {self.record} has no stage {name}; it has {', '.join(self.stages)}")
        output = self.stages[name]
        path = output.path
        if not path.is_dir() and not self.store.fetch(output.stage, output.key):
            raise ConfigError(f"run {self.record}: the output of {name} is gone from the store: {path}")
        return path

    def fetch(self) -> None:
        """Bring here what readers of finished runs open, where it is behind a URL."""
        for output in self.stages.values() if self.store.mirror else ():
            if output.stage not in NOT_READ and not output.path.is_dir():
                self.store.fetch(output.stage, output.key)

    def check(self) -> None:
        """Raise `ConfigError` unless all that readers of finished runs open is here."""
        self.fetch()
        for name, output in self.stages.items():
            if output.stage not in NOT_READ:
                self.stage(name)


def write_run(config: RunConfig, stages: Mapping[str, StageOutput]) -> Path | None:
    """Record a run that has just ended; returns the record's path. No earlier record is overwritten.

    In a store that cannot be written, the latest record of the same outputs, or None.
    """
    store = config.open_store()
    folder = store.root / RUNS / config.name
    told = {
        "format": FORMAT,
        "name": config.name,
        "config": config.model_dump(mode="json"),
        "stages": {
            name: {
                "stage": output.stage,
                "key": output.key,
                "seconds": output.seconds,
                "cached": output.cached,
                "rows": output.rows,
            }
            for name, output in stages.items()
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _fetch_records(store, config.name)
            number = 1 + max((order_of(path)[0] for path in folder.glob("*.json")), default=0)
            now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            path = folder / f"{number:04d}-{now}.json"
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({**told, "number": number, "finished": now}, indent=1), encoding="utf-8")
            partial.rename(path)
    except OSError as error:
        if not is_unwritable(error):
            raise
        logger.warning("store %s cannot be written, so this run is not recorded: %s", store.name, error)
        return _same_run(folder, stages)
    if store.mirror:
        store.mirror.upload(store.root, [path.relative_to(store.root).as_posix()])
    return path


def find_run(reference: str, store: str | Path) -> Run:
    """A run by its record's path, by `name` (its latest run) or by `name@when`: the beginning of its time, or of its
    record's name. store: folder or URL.

    Raises `ConfigError` naming what there is.
    """
    path = Path(reference)
    if path.suffix == ".json" or path.is_file():
        return read_run(path)
    name, _, moment = reference.partition("@")
    if not is_name(name):
        raise ConfigError(f"{name!r} cannot be a run's name: letters, digits, '_', '.', '-', the first no '.' or '-'")
    opened = open_store(store)
    _fetch_records(opened, name)
    folder = opened.root / RUNS / name
    if not folder.is_dir():
        names = _run_names(opened)
        known = f"; runs there: {', '.join(names)}{nearest(name, names)}" if names else "; no run was recorded there"
        raise ConfigError(f"no run {name!r} in the store {opened.name}{known}")
    records = sorted(folder.glob("*.json"), key=order_of)
    asked = [path for path in records if path.name.startswith(moment) or _moment(path).startswith(moment)]
    if not asked:
        times = ", ".join(path.stem for path in records)
        raise ConfigError(f"run {name!r} has none at {moment!r}; it ended at {times}")
    return read_run(asked[-1], opened)


def only_run(store: str | Path) -> Run:
    """The latest run of the one name in the store. Raises `ConfigError` when there are several names, or none."""
    names = _run_names(open_store(store))
    if len(names) != 1:
        raise ConfigError(
            f"name the run with --run; in {store} there are {', '.join(names)}" if names else f"no run in {store}"
        )
    return find_run(names[0], store)


def _run_names(store: StageStore) -> list[str]:
    folder = store.root / RUNS
    here = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    there = {name.split("/")[1] for name in store.mirror.list(RUNS)} if store.mirror else set()
    return sorted(here | there)


def _fetch_records(store: StageStore, name: str) -> None:
    """The records that other machines have left behind the URL."""
    if store.mirror is None:
        return
    found = [path for path in store.mirror.list(f"{RUNS}/{name}") if _NAME.fullmatch(Path(path).stem)]
    store.mirror.download({path: store.root / path for path in found if not (store.root / path).exists()})


def order_of(record: Path) -> tuple[int, str, int]:
    """By number; older records, which have none, come first and by time, those of one second by place."""
    found = _NAME.fullmatch(record.stem)
    if found is None:
        return 0, "", 0  # a stranger's file
    return int(found["number"] or 0), found["moment"], int(found["among"] or 0)


def _moment(record: Path) -> str:
    """The time in a record's name; for older ones the whole of it, which tells those of one second apart."""
    found = _NAME.fullmatch(record.stem)
    return found["moment"] if found and found["number"] else record.stem


def _same_run(folder: Path, stages: Mapping[str, StageOutput]) -> Path | None:
    keys = {name: output.key for name, output in stages.items()}
    for path in sorted(folder.glob("*.json"), key=order_of, reverse=True):
        with contextlib.suppress(ConfigError):
            if {name: output.key for name, output in read_run(path).stages.items()} == keys:
                return path
    return None


def read_run(path: Path, store: StageStore | None = None) -> Run:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("format", 0) not in range(FORMAT + 1):
            raise ConfigError(
                f"{path} has format {told['format']!r}, this version of Equipoise reads up to {FORMAT}; use a newer one"
            )
        # a store may have been moved, the record with it
        opened = store or StageStore(path.resolve().parents[2])
        stages = {name: _output(opened.root, one) for name, one in told["stages"].items()}
        return Run(told["name"], told["finished"], told["config"], stages, path, opened)
    except FileNotFoundError as error:
        raise ConfigError(f"no such run record: {path}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is no run record: {error!r}") from error


def _output(root: Path, told: Mapping[str, Any]) -> StageOutput:
    stage, key = told["stage"], told["key"]
    if not (is_name(stage) and is_name(key)):  # or the record could name any folder of the machine
        raise ValueError(f"it names the output {stage!r}/{key!r}, which is no place in a store")
    return StageOutput(stage, key, root / stage / key, told["cached"], told["seconds"], told["rows"])
