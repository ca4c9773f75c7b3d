"""What each run of the pipeline was: its configuration and the keys of its stages, kept beside the store's stages.

A stage folder does not know which runs used it, and two runs share most of theirs; the record is what makes a run a
thing that can be compared with another, or drawn again. One small JSON file per run, in `<store>/runs/<name>/`, named
for the time it ended; it holds no data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import ConfigError, RunConfig
from flows.store import StageOutput
from train.names import nearest

RUNS = "runs"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. config: as it was validated, plain values; stages: by the pipeline's names, in order."""

    name: str
    finished: str
    config: dict[str, Any]
    stages: dict[str, StageOutput]
    record: Path

    def stage(self, name: str) -> Path:
        """The folder of a stage. Raises `ConfigError` when the run has none or it was removed."""
        if name not in self.stages:
            raise ConfigError(f"run {self.record} has no stage {name}; it has {', '.join(self.stages)}")
        path = self.stages[name].path
        if not path.is_dir():
            raise ConfigError(f"run {self.record}: the output of {name} is gone from the store: {path}")
        return path


def write_run(config: RunConfig, stages: Mapping[str, StageOutput]) -> Path:
    """Record a run that has just ended; returns the record's path. No earlier record is overwritten."""
    folder = Path(config.store) / RUNS / config.name
    folder.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    told = {
        "name": config.name,
        "finished": now,
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
    text = json.dumps(told, indent=1)
    number = 0
    while True:
        path = folder / (f"{now}-{number}.json" if number else f"{now}.json")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            number += 1
            continue
        return path


def find_run(reference: str, store: Path) -> Run:
    """A run by its record's path, by `name` (its latest run) or by `name@time`, the beginning of its time.

    Raises `ConfigError` naming what there is.
    """
    path = Path(reference)
    if path.suffix == ".json" or path.is_file():
        return _read(path)
    name, _, moment = reference.partition("@")
    folder = store / RUNS / name
    if not folder.is_dir():
        names = sorted(p.name for p in (store / RUNS).iterdir()) if (store / RUNS).is_dir() else []
        known = f"; runs there: {', '.join(names)}{nearest(name, names)}" if names else "; no run was recorded there"
        raise ConfigError(f"no run {name!r} in the store {store}{known}")
    records = sorted(p for p in folder.glob("*.json") if p.name.startswith(moment))
    if not records:
        times = ", ".join(p.stem for p in sorted(folder.glob("*.json")))
        raise ConfigError(f"run {name!r} has none at {moment!r}; it ended at {times}")
    return _read(max(records, key=_order))


def _order(record: Path) -> tuple[str, int]:
    """By time, and of one second by number."""
    moment, _, number = record.stem.partition("-")
    return moment, int(number or 0)


def _read(path: Path) -> Run:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        store = path.resolve().parents[2]  # a store may have been moved, the record with it
        stages = {
            name: StageOutput(
                one["stage"], one["key"], store / one["stage"] / one["key"], one["cached"], one["seconds"], one["rows"]
            )
            for name, one in told["stages"].items()
        }
        return Run(told["name"], told["finished"], told["config"], stages, path)
    except FileNotFoundError as error:
        raise ConfigError(f"no such run record: {path}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path} is no run record: {error!r}") from error
