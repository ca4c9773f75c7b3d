"""The report's figures on one training run, from its step log: what was drawn and trained, how often each domain was
repeated, what the weights did, and how each domain's loss fell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flows.report.figures import COLOURS, GREY, new_figure, short, styled, to_svg

WINDOWS = 20  # averages a curve is drawn from
REPEATED = 4  # passes after which fine-tuning is likely to memorise
OTHERS = "#d5d8dc"
Records = Sequence[Mapping[str, Any]]


def mixture(records: Records, losses: Sequence[tuple[int, float]]) -> str:
    """Share of trained tokens per domain over training with the temperature's changes, and the loss."""
    with styled():
        figure, (left, right) = new_figure(9, 3.2, 2)
        top = _largest(records)
        steps, stacks = [], []
        for at, part in _windows(records):
            tokens = _sum(part, "trained_tokens")
            shares = [tokens[name] / (tokens.total() or 1) for name in top]
            steps.append(at)
            stacks.append([*shares, max(0.0, 1 - sum(shares))])
        left.stackplot(
            steps,
            np.array(stacks).T,
            labels=[*(short(name, 18) for name in top), "others"],
            colors=[*COLOURS[: len(top)], OTHERS],
        )
        left.set(xlabel="optimizer step", ylabel="share of trained tokens", ylim=(0, 1), title="Mixture over training")
        left.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        changes = [r["step"] for before, r in pairwise(records) if r["temperature"] != before["temperature"]]
        if len(changes) <= WINDOWS:  # a temperature that moves every step is a curve, not a line per step
            for step in changes:
                left.axvline(step, color="#222", linewidth=0.8, linestyle="--")
        if losses:
            right.plot(*zip(*losses, strict=True), color=COLOURS[0], linewidth=1.2)
        right.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Training loss")
        return to_svg(figure)


def details(records: Records) -> str:
    """Drawn against trained rows, passes over each domain, weights, and the loss of each domain."""
    with styled():
        names = sorted(records[-1]["epochs"])
        figure, (rows, epochs, weights, losses) = new_figure(9, 3.0 + 0.34 * len(names), 2, 2)
        _rows(rows, records, names)
        _epochs(epochs, records, names)
        _weights(weights, records)
        _losses(losses, records)
        return to_svg(figure)


def _rows(axis: Axes, records: Records, names: Sequence[str]) -> None:
    """Shares of drawn rows, trained rows and weight; equal bars say that nothing moved them."""
    kinds = {"drawn": ("pool", GREY), "trained": ("selected", COLOURS[0]), "weight": ("weight_mass", COLOURS[1])}
    at = np.arange(len(names), dtype=float)
    for k, (label, (key, colour)) in enumerate(kinds.items()):
        total = _sum(records, key)
        shares = [total[name] / (total.total() or 1) for name in names]
        axis.barh(at + (k - 1) * 0.27, shares, height=0.25, color=colour, label=label)
    axis.set_yticks(at, [short(name, 18) for name in names])
    axis.invert_yaxis()
    axis.set(xlabel="share of the run", title="Drawn, trained, weight")
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _epochs(axis: Axes, records: Records, names: Sequence[str]) -> None:
    passes = [records[-1]["epochs"][name] for name in names]
    at = np.arange(len(names), dtype=float)
    axis.barh(at, passes, height=0.6, color=COLOURS[2])
    axis.set_yticks(at, [short(name, 18) for name in names])
    axis.invert_yaxis()
    if max(passes) > REPEATED:
        axis.axvline(REPEATED, color="#222", linewidth=0.8, linestyle="--")
    axis.set(xlabel="passes over the domain", title="How often rows were drawn")


def _weights(axis: Axes, records: Records) -> None:
    """Effective share of the trained rows; with a coreset, also its kept and picked rows."""
    windows = _windows(records)
    steps = [at for at, _ in windows]
    effective = [
        np.mean([r["effective_sample_size"] / max(1, sum(r["selected"].values())) for r in part]) for _, part in windows
    ]
    axis.plot(steps, effective, color=COLOURS[0], linewidth=1.2, label="effective share of trained rows")
    if "kept" in records[0]:
        for kind, label, colour in (("kept", "kept small sources", COLOURS[1]), ("quotas", "picked", COLOURS[2])):
            shares = [
                np.mean([sum(r[kind].values()) / max(1, sum(r["selected"].values())) for r in part])
                for _, part in windows
            ]
            axis.plot(steps, shares, color=colour, linewidth=1.2, label=label)
    axis.set(xlabel="optimizer step", ylim=(0, 1.05), title="Weights and coreset")
    axis.legend(frameon=False, fontsize=7, loc="lower left")


def _losses(axis: Axes, records: Records) -> None:
    for k, name in enumerate(_largest(records)):
        points = [
            (at, np.mean([r["loss"][name] for r in part if name in r["loss"]]))
            for at, part in _windows(records)
            if any(name in r["loss"] for r in part)
        ]
        axis.plot(*zip(*points, strict=True), color=COLOURS[k], linewidth=1.2, label=short(name, 18))
    axis.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Loss per domain (largest ones)")
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def left_out(records: Records) -> str:
    """A sentence on what the run could not train on; empty when nothing was lost."""
    skipped = [record["step"] for record in records if record["skipped"]]
    rows = sorted({row for record in records for row in record["excluded"]})
    parts = []
    if skipped:
        parts.append(f"{len(skipped)} step(s) were skipped for lack of a finite loss or gradient, first {skipped[0]}")
    if rows:
        named = f"{', '.join(rows[:3])}{' …' if len(rows) > 3 else ''}"
        parts.append(f"{len(rows)} row(s) had no finite loss at some step and did not count there ({named})")
    return "; ".join(parts)


def _largest(records: Records) -> list[str]:
    """The domains with a colour of their own, most trained tokens first."""
    total = _sum(records, "trained_tokens")
    return sorted((name for name in total if total[name]), key=lambda name: (-total[name], name))[: len(COLOURS) - 1]


def _sum(records: Records, key: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(record[key])
    return total


def _windows(records: Records) -> list[tuple[float, Records]]:
    """(middle step, records) of up to `WINDOWS` stretches."""
    size = max(1, len(records) // WINDOWS)
    starts = range(0, len(records), size)
    return [(start + len(records[start : start + size]) / 2, records[start : start + size]) for start in starts]
