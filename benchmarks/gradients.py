"""What per-example gradients cost, beside the cheapest pass that could give them and beside other tools, in one run.

    benchmarks/peers/setup.sh /tmp/peers                                          # once, about a minute
    .venv/bin/python benchmarks/gradients.py --peers /tmp/peers --out table.md    # all tools
    .venv/bin/python benchmarks/gradients.py --only ours --scaling                # ours alone, and how its cost grows

Everybody gets the same tokens, model and LoRA and turns N pool rows and M targets into N x M scores; that whole job is
timed, with what the tool keeps on disk, but not loading. Each tool lives in a process of its own under its own
environment's Python. In every round each tool runs right after the floor: one batched forward and backward pass over
the same rows with all weights frozen. The lean floor forms logits at labelled positions only, as Equipoise does. The
bound for Equipoise is 1.1 times a floor.

Fidelity is the rank correlation (Spearman, down a target's column, mean over targets) with the exact quantity that the
tool's score stands for, from batch-size-1 autograd, so that nobody is fast by projecting to nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.bundle import exact_scores, write_bundle
from peers.host import Runner, RunnerError, start
from peers.report import Measured, comparison, growth

ROOT = Path(__file__).parent.parent
FLOOR, LEAN = "floor", "lean floor"
WIDTHS = (64, 128, 256, 512)
FACTORS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Entry:
    """A line of the table: the runner's name, its mode, and whether it needs a peer's environment."""

    name: str
    program: str
    mode: str = ""
    peer: bool = False


OURS = [
    Entry(LEAN, "floor", "labelled"),
    Entry("Equipoise, exact, Adam", "ours", "adam"),
    Entry("Equipoise, exact, plain", "ours", "exact"),
    Entry("Equipoise, sketched", "ours", "sketch"),
]
GROWING = [entry for entry in OURS if entry.mode != "exact"]
OTHERS = [
    Entry("bergson, whole", "bergson", "whole", peer=True),
    Entry("bergson, projected", "bergson", peer=True),
    Entry("dattri (LoGra)", "dattri", peer=True),
    Entry("kronfluence", "kronfluence", peer=True),
    Entry("TRAK", "traker", peer=True),
    Entry("loop, as LESS", "loop"),
]


@dataclass
class Session:
    """Processes over one bundle. failures: tool -> what went wrong; such a tool is left out of later rounds."""

    runners: list[Runner]
    failures: dict[str, str]

    def measure(self, rounds: int) -> dict[str, Measured]:
        """One untimed round for all, then `rounds` times the floor and each tool in turn."""
        base, *tools = self.runners
        measured = {runner.name: Measured(runner) for runner in tools}
        floor = base.go()
        for number in range(rounds + 1):
            for runner in tools:
                if runner.name in self.failures:
                    continue
                if number:
                    floor = base.go()
                try:
                    done = runner.go()
                except RunnerError as error:
                    self.failures[runner.name] = str(error)
                    continue
                if number:
                    measured[runner.name].add(floor, done)
            print(f"round {number} of {rounds}" if number else "warm", file=sys.stderr)
        return {name: one for name, one in measured.items() if one.rounds}

    def stop(self) -> None:
        for runner in self.runners:
            if runner.name not in self.failures:
                runner.stop()


def open_session(entries: Sequence[Entry], bundle: Path, out: Path, peers: Path | None, threads: int) -> Session:
    """Start the floor and all entries at once, and wait until they have loaded."""
    runners, failures = [], {}
    for entry in [Entry(FLOOR, "floor"), *entries]:
        python = (peers or Path()) / entry.program / "bin" / "python" if entry.peer else Path(sys.executable)
        if entry.peer and (peers is None or not python.exists()):
            failures[entry.name] = "not installed: run benchmarks/peers/setup.sh FOLDER and give --peers FOLDER"
            continue
        place = out / entry.name.replace(" ", "-").replace(",", "")
        runners.append(start(entry.name, entry.program, python, bundle, place, threads, entry.mode))
    for runner in runners:
        try:
            runner.read_description()
        except RunnerError as error:
            failures[runner.name] = str(error)
    if FLOOR in failures:
        raise SystemExit(f"the floor itself failed: {failures[FLOOR]}")
    return Session(runners, failures)


def compare(given: argparse.Namespace, folder: Path) -> str:
    """The table of all tools."""
    bundle = folder / "bundle"
    workload = write_bundle(bundle, ROOT / "demo", given.rows, given.targets, given.tokens_per_batch)
    entries = [entry for entry in OURS + OTHERS if given.only is None or entry.program in ("floor", *given.only)]
    session = open_session(entries, bundle, folder / "tools", given.peers, given.threads)
    measured = session.measure(given.rounds)
    text = comparison(workload, measured, measured.get(LEAN), exact_scores(workload), given.threads)
    session.stop()
    return text + "".join(f"\n\n{name}: {reason}" for name, reason in session.failures.items())


def scaling(given: argparse.Namespace, folder: Path) -> str:
    """Ours and the floors at growing pools, and at growing random models."""
    quarter = max(8, given.rows // 4)
    sizes: list[tuple[str, int, int | None]] = [(f"{factor} x rows", quarter * factor, None) for factor in FACTORS]
    sizes += [(f"{factor} x width", quarter, width) for factor, width in zip(FACTORS, WIDTHS, strict=True)]
    lines = []
    for number, (label, rows, width) in enumerate(sizes):
        place = folder / f"size-{number}"
        workload = write_bundle(place / "bundle", ROOT / "demo", rows, given.targets, given.tokens_per_batch, width)
        session = open_session(GROWING, place / "bundle", place / "tools", None, given.threads)
        lines.append((label, width, workload, session.measure(given.rounds)))
        session.stop()
    return growth(lines, [entry.name for entry in GROWING])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder that benchmarks/peers/setup.sh filled")
    programs = sorted({entry.program for entry in OURS + OTHERS} - {"floor"})
    parser.add_argument("--only", nargs="+", choices=programs, help="measure these beside the floors")
    parser.add_argument("--rows", type=int, default=200, help="pool rows N")
    parser.add_argument("--targets", type=int, default=80, help="target rows M, at most as many as the demo has")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=2, help="threads of every tool")
    parser.add_argument("--tokens-per-batch", type=int, default=4096, help="padded tokens in a batch")
    parser.add_argument(
        "--scaling", action="store_true", help="also 1, 2, 4 and 8 times the rows and the model's width"
    )
    parser.add_argument("--out", type=Path, help="file for the tables, which are printed too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradients-") as name:
        text = compare(given, Path(name)) + "\n"
        if given.scaling:
            text += "\n" + scaling(given, Path(name)) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
