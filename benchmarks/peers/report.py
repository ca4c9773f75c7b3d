"""Rounds to Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from peers.host import Done, Runner
from peers.workload import Workload
from scipy.stats import spearmanr


@dataclass
class Measured:
    """A tool's rounds, each with the floor's run right before it."""

    runner: Runner
    floors: list[Done] = field(default_factory=list)
    rounds: list[Done] = field(default_factory=list)

    def add(self, floor: Done, done: Done) -> None:
        self.floors.append(floor)
        self.rounds.append(done)

    @property
    def seconds(self) -> float:
        """Median over the rounds."""
        return statistics.median(done.seconds for done in self.rounds)

    @property
    def ratio(self) -> float:
        """Time over the floor's time in the same round, median."""
        pairs = zip(self.rounds, self.floors, strict=True)
        return statistics.median(done.seconds / floor.seconds for done, floor in pairs)

    @property
    def best_ratio(self) -> float:
        """Fastest round over the floor's fastest."""
        return min(done.seconds for done in self.rounds) / min(floor.seconds for floor in self.floors)

    @property
    def cpu_ratio(self) -> float:
        """Processor time over the floor's, median: what other work on the machine disturbs least."""
        pairs = zip(self.rounds, self.floors, strict=True)
        return statistics.median(done.cpu_seconds / floor.cpu_seconds for done, floor in pairs)

    def ratio_to(self, other: Measured) -> float:
        """Time over another tool's time in the same round, median."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine.seconds / its.seconds for mine, its in pairs)


def comparison(
    workload: Workload,
    measured: dict[str, Measured],
    lean: Measured | None,
    exact: dict[str, np.ndarray],
    threads: int,
) -> str:
    """The table of tools. lean: the floor with fewer logits, if it ran; exact: quantity -> (N, M) scores."""
    rows = workload.rows
    floors = [floor for one in measured.values() for floor in one.floors]
    floor_seconds = statistics.median(floor.seconds for floor in floors)
    head = [
        "tool",
        "version",
        "rows/s",
        "time / floor, median",
        "best",
        "processor time",
        "time / lean floor",
        "speed, share of floor",
        "peak MB",
        "disk bytes / row",
        "fidelity",
        "to exact",
        "how",
    ]
    lines = [
        [
            "floor",
            "",
            f"{len(rows) / floor_seconds:.1f}",
            "1.00",
            "1.00",
            "1.00",
            "",
            "1.00",
            f"{max(floor.peak_bytes for floor in floors) / 2**20:.0f}",
            "",
            "",
            "",
            "forward and backward, all weights frozen",
        ]
    ]
    for name, one in measured.items():
        last, runner = one.rounds[-1], one.runner
        lines.append(
            [
                name,
                runner.version,
                f"{len(rows) / one.seconds:.1f}",
                f"{one.ratio:.2f}",
                f"{one.best_ratio:.2f}",
                f"{one.cpu_ratio:.2f}",
                "" if lean is None or len(lean.rounds) != len(one.rounds) else f"{one.ratio_to(lean):.2f}",
                f"{1 / one.ratio:.2f}",
                f"{last.peak_bytes / 2**20:.0f}",
                f"{last.bytes_per_row:,.0f}" if last.bytes_per_row else "",
                "" if runner.quantity is None else f"{_fidelity(runner, exact[runner.quantity]):.3f}",
                runner.quantity or "",
                runner.about,
            ]
        )
    tokens = sum(map(len, rows))
    title = (
        f"{len(workload.pool)} pool rows and {len(workload.targets)} targets, {tokens:,} tokens, "
        f"{max(len(one.rounds) for one in measured.values())} rounds, {threads} threads"
    )
    return f"{title}\n\n{_table(head, lines)}"


def growth(sizes: Sequence[tuple[str, int | None, Workload, dict[str, Measured]]], names: Sequence[str]) -> str:
    """The table of sizes: (label, hidden size if not the demo's, workload, its rounds); a column pair per name."""
    head = ["size", "rows", "hidden size", "floor s"]
    for name in names:
        head += [f"{name} s", "/ floor"]
    lines = []
    for label, width, workload, measured in sizes:
        floor = statistics.median(each.seconds for one in measured.values() for each in one.floors)
        line = [label, str(len(workload.rows)), str(width or "demo"), f"{floor:.2f}"]
        for name in names:
            one = measured.get(name)
            line += ["", ""] if one is None else [f"{one.seconds:.2f}", f"{one.ratio:.2f}"]
        lines.append(line)
    return _table(head, lines)


def _fidelity(runner: Runner, exact: np.ndarray) -> float:
    """Spearman correlation down each target's column over the rows that the tool scored, mean over the columns."""
    scores = np.load(runner.out / "scores.npy")
    found = []
    for mine, true in zip(scores.T, exact.T, strict=True):
        known = np.isfinite(mine)
        if known.sum() > 2:
            found.append(spearmanr(mine[known], true[known]).statistic)
    return float(np.mean(found))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
