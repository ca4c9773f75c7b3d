"""The report's figures on one training run, from its step log: what was drawn and trained, how often each domain was
repeated, what the weights and the coreset did, and how each domain's loss fell.

Only what the log has is drawn: no panel on weights where all were equal, none on the coreset without one. Curves are
means over stretches of the run, so an hour's log draws as fast as a minute's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flows.report.figures import COLOURS, GREY, new_figure, short, styled, to_svg
from train.mixture.build import MANY_EPOCHS
from train.step_log import totals

WINDOWS = 20  # stretches a curve is drawn from
SHOWN_BARS = 20  # domains with a bar of their own
SHOWN_VALUES = 6  # temperatures written above the mixture
OTHERS = "#d5d8dc"
SHADE = "#dfe3e8"
STEP = "optimizer step"
LOSS = "loss (nats per token)"
MARK: dict[str, Any] = {"color": "#222", "linewidth": 0.8, "linestyle": "--"}
LINE: dict[str, Any] = {"linewidth": 1.2, "marker": ".", "markersize": 3}  # the dot shows a run of one stretch
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # under a number that a line may cross
Records = Sequence[Mapping[str, Any]]


def mixture(records: Records, losses: Sequence[tuple[int, float]]) -> str:
    """Share of trained tokens per domain over training with the temperature, and the loss."""
    with styled():
        figure, (left, right) = new_figure(9, 3.2, 2)
        top = _largest(records)
        stacks = []
        for part in _windows(records):
            tokens = totals(part, "trained_tokens")
            shares = [tokens[name] / (tokens.total() or 1) for name in top]
            stacks.append([*shares, max(0.0, 1 - sum(shares))])
        others = len(records[-1]["epochs"]) > len(top)
        areas = left.stackplot(*_filled(records, stacks), colors=[*COLOURS[: len(top)], OTHERS])
        _legend(left, areas, [*top, *["others"] * others])
        left.set(xlabel=STEP, ylabel="share of trained tokens", ylim=(0, 1), xlim=_span(records))
        left.set_title("Mixture over training")
        _temperatures(left, records)
        if losses:
            right.plot(*zip(*losses, strict=True), color=COLOURS[0], linewidth=1.2)
        right.set(xlabel=STEP, ylabel=LOSS, title="Training loss")
        return to_svg(figure)


def details(records: Records) -> dict[str, str]:
    """Title -> figure: shares and passes of the domains, their losses, and what weights and coreset did where there
    were any."""
    figures = {"Shares and passes of each domain": _bars(records), "Loss of each domain": _losses(records)}
    panels = [_weights] * any(map(_weighted, records)) + [_coreset] * ("kept" in records[0])
    if panels:
        with styled():
            figure, axes = new_figure(9 if len(panels) > 1 else 6, 2.8, len(panels))
            for draw, axis in zip(panels, axes, strict=True):
                draw(axis, records)
            figures["Weights and coreset over training"] = to_svg(figure)
    return figures


def left_out(records: Records) -> str:
    """A sentence on what the run could not train on; empty when nothing was lost."""
    skipped = [record["step"] for record in records if record["skipped"]]
    parts = []
    if skipped:
        parts.append(f"{len(skipped)} step(s) were skipped for lack of a finite loss or gradient, first {skipped[0]}")
    for key, what in (
        ("excluded", "had no finite loss at some step and did not count there"),
        ("unranked", "could not be ranked by the coreset at some step and were not picked there"),
    ):
        rows = sorted({row for record in records for row in record.get(key, ())})
        if rows:
            named = f"{', '.join(rows[:3])}{' …' if len(rows) > 3 else ''}"
            parts.append(f"{len(rows)} row(s) {what} ({named})")
    return "; ".join(parts)


def mean_loss(records: Records, names: Iterable[str]) -> float | None:
    """Mean over the rows of these domains trained in these steps; None where no row had a finite loss."""
    terms = [
        (loss, record["selected"][name])
        for name in names
        for record in records
        if (loss := record["loss"].get(name)) is not None
    ]
    rows = sum(count for _, count in terms)
    return sum(loss * count for loss, count in terms) / rows if rows else None


def _temperatures(axis: Axes, records: Records) -> None:
    """The temperature's values above the panel; a dashed line where it jumps."""
    changes = [r["step"] for before, r in pairwise(records) if r["temperature"] != before["temperature"]]
    values = {record["step"]: record["temperature"] for record in records}
    if set(values.values()) == {None}:  # shares that follow no temperature
        return
    first, last = _span(records)
    if len(changes) <= WINDOWS:
        at = [records[0]["step"], *changes]
        for step in changes:
            axis.axvline(step - 0.5, **MARK)
    else:  # it moves all the time: a line per step would hide the mixture
        at = [records[int(k)]["step"] for k in np.linspace(0, len(records) - 1, SHOWN_VALUES)]
    apart: list[int] = []
    for step in at:
        if not apart or step - apart[-1] >= (last - first) / (SHOWN_VALUES + 1):
            apart.append(step)
    top = axis.secondary_xaxis("top")
    # within a run that has temperatures, one that JSON cannot hold is infinite
    told = [f"{values[step]:.3g}" if values[step] is not None else "∞" for step in apart]
    top.set_xticks(apart, [f"T = {told[0]}", *told[1:]], fontsize=8)
    top.spines["top"].set_visible(False)


def _bars(records: Records) -> str:
    """Shares of drawn rows, of trained rows where a coreset chose, of the weight where rows were weighted; passes."""
    kinds = {"drawn": ("pool", GREY)}
    if "kept" in records[0]:
        kinds["trained"] = ("selected", COLOURS[0])
    if any(map(_weighted, records)):
        kinds["weight"] = ("weight_mass", COLOURS[1])
    passes: Mapping[str, float] = records[-1]["epochs"]
    drawn = totals(records, "pool")
    with styled():
        each = 0.14 + 0.06 * len(kinds)
        figure, (left, right) = new_figure(9, 1.0 + each * min(len(passes), SHOWN_BARS), 2)
        names = _shown({name: drawn[name] for name in passes})
        at = np.arange(len(names), dtype=float)
        height = 0.8 / len(kinds)
        bars = []
        for k, (key, colour) in enumerate(kinds.values()):
            total = totals(records, key)
            shares = [total[name] / (total.total() or 1) for name in names]
            bars.append(left.barh(at + (k - (len(kinds) - 1) / 2) * height, shares, height=0.9 * height, color=colour))
        _domains(left, names)
        left.set(xlabel="share of the run", title=f"{', '.join(kinds).capitalize()}{_cut(names, passes, 'most drawn')}")
        if len(kinds) > 1:
            _legend(left, bars, list(kinds))

        names = _shown(passes)
        repeats = right.barh(np.arange(len(names)), [passes[name] for name in names], height=0.6, color=COLOURS[2])
        right.bar_label(repeats, fmt=lambda n: f"{n:.1f}" if n >= 1 else f"{n:.2g}", fontsize=7, padding=2, bbox=PLATE)
        _domains(right, names)
        if max(passes.values()) >= MANY_EPOCHS:
            right.axvline(MANY_EPOCHS, **MARK)
        right.margins(x=0.1)
        right.set(xlabel="passes over the domain", title=f"Passes{_cut(names, passes, 'most repeated')}")
        return to_svg(figure)


def _losses(records: Records) -> str:
    top = _largest(records)
    rest = sorted(set(records[-1]["epochs"]) - set(top))
    curves = {name: [name] for name in top} | ({"others": rest} if rest else {})
    with styled():
        figure, (axis,) = new_figure(9, 2.8)
        lines, labels = [], []
        for k, (label, names) in enumerate(curves.items()):
            means = [(_middle(part), mean_loss(part, names)) for part in _windows(records)]
            points = [(at, mean) for at, mean in means if mean is not None]
            if points:
                own: dict[str, Any] = {"color": COLOURS[k]} if k < len(top) else {"color": GREY, "linestyle": ":"}
                lines += axis.plot(*zip(*points, strict=True), **LINE, **own)
                labels.append(label)
        axis.set(xlabel=STEP, ylabel=LOSS, title="Loss per domain, before weights", xlim=_span(records))
        _legend(axis, lines, labels)
        return to_svg(figure)


def _weights(axis: Axes, records: Records) -> None:
    """Effective share of the trained rows, with the steps before the first weights shaded."""
    burn = next(k for k, record in enumerate(records) if _weighted(record))
    parts = _windows(records[:burn]) + _windows(records[burn:])
    effective = [
        np.mean([r["effective_sample_size"] / max(1, sum(r["selected"].values())) for r in part]) for part in parts
    ]
    if burn:
        edge = records[burn]["step"] - 0.5
        shade = axis.axvspan(_span(records)[0], edge, color=SHADE, linewidth=0)
        _legend(axis, [shade], ["burn-in"])
    axis.plot([_middle(part) for part in parts], effective, color=COLOURS[0], **LINE)
    axis.set(xlabel=STEP, ylabel="share of the trained rows", ylim=(0, 1.05), xlim=_span(records))
    axis.set_title("Effective sample size of the weights")


def _coreset(axis: Axes, records: Records) -> None:
    """Rows per step: kept as small sources, picked under quotas, and drawn."""
    means = [
        [totals(part, key).total() / len(part) for key in ("kept", "quotas", "pool")] for part in _windows(records)
    ]
    at, (kept, picked, drawn) = _filled(records, means)
    areas = axis.stackplot(at, kept, picked, colors=[COLOURS[1], COLOURS[4]])
    (line,) = axis.plot(at, drawn, color=GREY, linewidth=1.2)
    axis.set(xlabel=STEP, ylabel="rows per step", title="Coreset", ylim=(0, 1.05 * max(drawn)), xlim=_span(records))
    _legend(axis, [line, areas[1], areas[0]], ["drawn", "picked", "kept"])


def _legend(axis: Axes, drawn: Sequence[Any], names: Sequence[str]) -> None:
    """To the right of the panel; by handle, as matplotlib leaves out labels that begin with an underscore."""
    axis.legend(
        drawn[: len(names)],
        [short(name, 18) for name in names],
        frameon=False,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )


def _domains(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(np.arange(len(names)), [short(name, 18) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)


def _shown(values: Mapping[str, float]) -> list[str]:
    """The domains with the largest values, by name."""
    return sorted(sorted(values, key=lambda name: (-values[name], name))[:SHOWN_BARS])


def _cut(shown: Sequence[str], everything: Mapping[str, float], which: str) -> str:
    return f" ({len(shown)} {which} of {len(everything)})" if len(shown) < len(everything) else ""


def _weighted(record: Mapping[str, Any]) -> bool:
    """Whether rows with a finite loss counted differently; a row without one has no weight in any case."""
    counted = sum(record["selected"].values()) - len(record["excluded"])
    return record["effective_sample_size"] < counted * (1 - 1e-6)


def _largest(records: Records) -> list[str]:
    """The domains with a colour of their own, most trained tokens first."""
    total = totals(records, "trained_tokens")
    return sorted((name for name in total if total[name]), key=lambda name: (-total[name], name))[: len(COLOURS) - 1]


def _windows(records: Records) -> list[Records]:
    """Up to `WINDOWS` stretches of equal length, to a step."""
    edges = np.linspace(0, len(records), min(WINDOWS, len(records)) + 1).astype(int)
    return [records[a:b] for a, b in pairwise(edges)]


def _middle(part: Records) -> float:
    return (part[0]["step"] + part[-1]["step"]) / 2


def _span(records: Records) -> tuple[float, float]:
    return records[0]["step"] - 0.5, records[-1]["step"] + 0.5


def _filled(records: Records, values: Sequence[Sequence[float]]) -> tuple[list[float], np.ndarray]:
    """x and (curves, x) of the windows' values, continued to both ends of the run: areas without gaps at the sides."""
    first, last = _span(records)
    at = [first, *map(_middle, _windows(records)), last]
    return at, np.array([values[0], *values, values[-1]]).T
