"""What the orchestration of a run costs, and how near `equipoise validate` came to it.

    PYTHONPATH=. .venv/bin/python benchmarks/orchestration.py [CONFIG] [--set KEY=VALUE]    # the demo: about 10 minutes

The run is started twice as a person starts it, in a store of its own. First: wall time of the process, against the
seconds that its stages worked; the difference is imports, Prefect's server, tasks, checksums and tables. Second: an
unchanged run finds everything, so all of its time is overhead; a process that only imports the flows is the floor.
Memory is the proportional set size of the whole process tree, sampled while a stage's partial folder exists.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil

from flows.checks import checked
from flows.config import load_config
from flows.estimate import StageCost, estimate
from flows.runs import find_run
from flows.store import StageOutput

SAMPLE_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/demo.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        overrides = [*arguments.overrides, f"store={store}"]
        config = load_config(arguments.config, overrides)
        expected = estimate(config, checked(config)).costs
        settings = [part for override in overrides for part in ("--set", override)]
        command = [sys.executable, "-m", "flows.cli", "run", str(arguments.config), *settings]
        first, memory = timed(command, store)
        stages = find_run(config.name, store).stages
        floor, _ = timed([sys.executable, "-c", "import flows.pipeline"], store)
        second, _ = timed(command, store)
        worked = sum(output.seconds for output in stages.values())
        print(f"first run: {first:.1f} s, of which stages {worked:.1f} s; outside them {1 - worked / first:.1%}")
        print(f"second run: {second:.1f} s; {second - floor:.1f} s beyond a process that only imports ({floor:.1f} s)")
        show(expected, stages, memory, store)


def timed(command: list[str], store: Path) -> tuple[float, dict[str, int]]:
    """Wall seconds of a process, and the largest memory seen during each stage, in bytes."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory: dict[str, int] = defaultdict(int)
    watcher = threading.Thread(target=_watch, args=(psutil.Process(child.pid), store, memory), daemon=True)
    watcher.start()
    _, told = child.communicate()
    seconds = time.perf_counter() - started
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{told[-3000:]}")
    return seconds, memory


def _watch(process: psutil.Process, store: Path, memory: dict[str, int]) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        working = {partial.parent.name for partial in store.glob("*/*.partial")}
        total = 0
        with contextlib.suppress(psutil.Error):
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += one.memory_full_info().pss
        for stage in working:
            memory[stage] = max(memory[stage], total)
        time.sleep(SAMPLE_SECONDS)


def show(expected: list[StageCost], stages: dict[str, StageOutput], memory: dict[str, int], store: Path) -> None:
    """Expected beside measured, by kind of stage."""
    seconds: dict[str, float] = defaultdict(float)
    for output in stages.values():
        seconds[output.stage] += output.seconds
    print("| stage | expected s | took s | expected MiB | seen MiB | expected MiB on disk | found |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for cost in expected:
        seen = f"{memory[cost.stage] / 2**20:,.0f}" if cost.stage in memory else "–"  # over before the next sample
        disk = sum(path.stat().st_size for path in (store / cost.stage).rglob("*") if path.is_file())
        print(
            f"| {cost.stage} | {cost.seconds:.1f} | {seconds[cost.stage]:.1f} | {cost.memory / 2**20:,.0f} "
            f"| {seen} | {cost.disk / 2**20:.1f} | {disk / 2**20:.1f} |"
        )


if __name__ == "__main__":
    main()
