"""A small whole run with its real parts (training, gradients, evaluation on held-out items), and a parent to fork it
from: about twenty seconds on two idle cores, most of it imports of the training and gradient processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import pyarrow.parquet as pq

from flows.stages.influence import COST

ROOT = Path(__file__).parents[2]
NAME, METHODS = "small", ("bids", "random")
SHARD_ROWS = 8
PATIENCE_S = 600  # on a machine with much else to do
STAGES = (
    *("ingest", "guard", "clean", "encode", "warmup", "gradients", "attribution"),
    *("select-bids", "export-bids", "select-random", "export-random", "analysis", "figures"),
    *("finetune-bids", "finetune-random", "evaluate", "report"),
)


def write_config(folder: Path, store: str | Path) -> dict:
    """The configuration of the run, with its data cut from the demo's into `folder`."""
    sizes = {"pool": 48, "targets": 16, "eval/knowledge": 8}
    for name, count in sizes.items():
        table = pq.read_table(ROOT / f"demo/data/{name}.parquet")
        step = len(table) // count  # rows of every capability
        pq.write_table(table.take(list(range(0, step * count, step))), folder / f"{Path(name).name}.parquet")
    return {
        "name": NAME,
        "store": str(store),
        "model": str(ROOT / "demo/model"),
        "max_length": 192,
        "data": {
            "pool": [{"path": str(folder / "pool.parquet")}],
            "targets": [{"path": str(folder / "targets.parquet")}],
        },
        "warmup": {
            "fraction": 0.5,
            "checkpoints": 2,
            "optimizer": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4},
        },
        "influence": {"shard_rows": SHARD_ROWS},
        "selection": {"methods": list(METHODS), "budget": 16},
        "finetune": {"save_every": 2, "optimizer": {"learning_rate": 1e-3, "epochs": 3, "batch_size": 4}},
        "evaluation": {"items": [str(folder / "knowledge.parquet")], "resamples": 100},
    }


class Forker:
    """The parent of `forked_runs`; one run at a time. hash_seed: the order of Python's sets, which any other process
    would have another of."""

    def __init__(self, folder: Path, hash_seed: int = 1) -> None:
        self.log = folder / "runs.log"
        # one thread: OpenMP's threads that a run has used (a stage embeds with the model) hang in what it forks
        own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": f"{hash_seed}"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked_runs.py"))],
            cwd=ROOT,
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.group: int | None = None  # of the run that is under way
        self.answers: Queue[dict] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.answers.put(json.loads(line))
        self.answers.put({"pid": None, "code": "the parent has ended"})

    def start(
        self,
        config: dict,
        launcher: bool = False,
        environment: Mapping[str, str] | None = None,
        flow: str = "pipeline",
    ) -> int:
        """Process group of a run that has just begun. launcher: training and gradients by `accelerate launch`; flow:
        `pipeline` or `nightly`."""
        self.log.write_text("")
        told = {"config": config, "flow": flow, "log": str(self.log), "launcher": launcher}
        told["environment"] = dict(environment or {})
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        self.group = self.answers.get(timeout=PATIENCE_S)["pid"]
        return self.group

    def wait(self) -> int:
        code = self.answers.get(timeout=PATIENCE_S)["code"]
        self.group = None
        return code

    def run(self, config: dict, **how: Any) -> tuple[int, str]:
        """Exit code and output of a run."""
        self.start(config, **how)
        return self.wait(), self.log.read_text(errors="replace")

    def close(self) -> None:
        if self.group:
            kill(self.group)
        self.process.stdin.close()
        self.process.wait(60)


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def record(store: Path) -> dict:
    """The latest run's record."""
    return json.loads(max((store / "runs" / NAME).glob("*.json")).read_text())


def outputs(store: Path) -> dict[str, Path]:
    """Folder of every stage of the latest run."""
    return {name: store / one["stage"] / one["key"] for name, one in record(store)["stages"].items()}


SECONDS = re.compile(
    r'("(?:[\w/]*seconds[\w/]*|\w*_runtime|\w*_per_second|finished|time|total_flos)": )("[^"]*"|[\d.eE+-]+)'
)


SECONDS_TABLE = re.compile(r">seconds</th>.*?</table>", re.DOTALL)


def contents(folder: Path, made_in: Path | None = None) -> dict[str, bytes]:
    """Every file of a stage without what tells the time or the cost (logs of processes with their bars, seconds, dates,
    rows found) or the place of its store. made_in: the store's place then, if it was moved."""
    found = {}
    places = [str(place) for place in (made_in, folder.parents[1]) if place]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.suffix == ".log" or name == COST:
            continue
        content = path.read_bytes()
        if name == "manifest.json":
            told = json.loads(content)
            content = json.dumps({k: told[k] for k in ("stage", "key", "params", "inputs", "code", "rows")}).encode()
        elif path.suffix in (".json", ".jsonl"):
            text = content.decode()
            for place in places:
                text = text.replace(place, "STORE")
            content = SECONDS.sub(r"\1_", text).encode()
        elif path.suffix == ".html":
            text = re.sub(r"\d+ s of stage time", "_", content.decode())
            content = SECONDS_TABLE.sub(lambda table: re.sub(r'"number">[\d.]+<', "_", table[0]), text).encode()
        found[name] = content
    return found
