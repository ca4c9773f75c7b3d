"""The comparison's figures: source shares, overlap of every two arms, and results beside differences to the control.

A colour is a method and a marker a run, so that the same method is found again in every run and the eye compares runs
first; the report, which has one run, needs colours only. Sizes grow with the number of arms, and legends have as many
columns as their names leave room for. Beyond 8 methods or 7 runs the looks repeat, and beyond 16 arms the heat map has
shades only; the tables beneath have every number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.compare import BASE
from eval.statistics import Interval
from eval.tables import MetricTable
from flows.comparison.values import RunComparison
from flows.report.figures import GREY, colour, new_figure, short, styled, to_svg

MARKERS = "osD^vPX"
MOST_NUMBERS = 16  # arms of a heat map with numbers in its cells
LISTED_SOURCES = 24
WIDTH = 9.0  # inches

Look = tuple[str, str]  # colour and marker


def looks(found: RunComparison) -> dict[str, Look]:
    """Colour and marker of every arm and base by its label."""
    methods = list(dict.fromkeys(arm.method for arm in found.arms))
    markers = {run.label: MARKERS[k % len(MARKERS)] for k, run in enumerate(found.runs)}
    bases = {f"{run}:{BASE}": (GREY, marker) for run, marker in markers.items()}
    arms = {arm.label: (colour(methods.index(arm.method)), markers[arm.run]) for arm in found.arms}
    return {BASE: (GREY, "o"), **bases, **arms}


def shortened(label: str, length: int = 24) -> str:
    """A label cut in its middle: its end names the method."""
    kept = length - 1 - length // 3
    return label if len(label) <= length else f"{label[: length // 3]}…{label[-kept:]}"


def source_shares(found: RunComparison) -> str:
    """Per source its share of the first run's pool as a bar, and of every arm as a dot; the largest sources only."""
    shares = {arm.label: {part.name: part.share for part in arm.sources} for arm in found.arms}
    pool = {part.name: part.pool or 0.0 for part in found.arms[0].sources}
    largest: dict[str, float] = dict(pool)
    for of in shares.values():
        for name, share in of.items():
            largest[name] = max(largest.get(name, 0.0), share)
    names = sorted(largest, key=lambda name: (-largest[name], name))[:LISTED_SOURCES]
    with styled():
        step = max(0.3, 0.07 * len(shares))
        figure, (axis,) = new_figure(WIDTH, 1.0 + step * len(names) + _legend_height(list(shares)))
        rows = np.arange(len(names))
        axis.barh(rows, [pool.get(name, 0.0) for name in names], 0.8, color="#e4e8ec")
        for (label, of), offset in zip(shares.items(), _offsets(len(shares)), strict=True):
            shade, marker = looks(found)[label]
            values = [of.get(name, 0.0) for name in names]
            axis.plot(values, rows + offset, marker, markersize=4.5, color=shade, clip_on=False)
        axis.set_yticks(rows, [short(name) for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axis.set_xlabel(f"share of rows (bar: pool of {shortened(found.runs[0].label)})")
        _grid(axis)
        _legend(figure, {label: looks(found)[label] for label in shares})
        return to_svg(figure)


def overlap_heat_map(found: RunComparison) -> str:
    """Arm x arm: Jaccard index of the selected rows, and beneath it the rows in common."""
    arms = [arm.label for arm in found.arms]
    values, common = np.eye(len(arms)), np.diag([arm.rows for arm in found.arms])
    for i, first in enumerate(arms):
        for j, second in enumerate(arms[:i]):
            if (overlap := found.overlap(first, second)) is not None:
                values[i, j] = values[j, i] = overlap.jaccard or 0.0
                common[i, j] = common[j, i] = overlap.common
    with styled():
        numbers = len(arms) <= MOST_NUMBERS
        cell = 0.8 if numbers else 0.35
        figure, (axis,) = new_figure(3.2 + cell * len(arms), 1.6 + 0.6 * cell * len(arms))
        image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        names = [shortened(arm) for arm in arms]
        axis.set_xticks(range(len(arms)), names, rotation=35, ha="left", rotation_mode="anchor")
        axis.xaxis.tick_top()
        axis.set_yticks(range(len(arms)), names)
        for (i, j), value in np.ndenumerate(values) if numbers else ():
            shade = "white" if value > 0.55 else "#333"
            axis.text(j, i, f"{value:.2f}\n{common[i, j]:,}", ha="center", va="center", color=shade, fontsize=7.5)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, shrink=0.8, label="Jaccard index").outline.set_visible(False)
        return to_svg(figure)


def results(table: MetricTable, found: RunComparison) -> str:
    """Means with intervals per row and arm; beside them differences to the last control, filled where it may be called
    better or worse."""
    control = table.controls[-1]
    shown = {model: looks(found)[model] for model in table.models}
    judged = {model: look for model, look in shown.items() if model not in table.controls}
    rows = [row.name for row in table.rows]
    with styled():
        step = max(0.42, 0.13 * len(shown))
        height = 1.0 + step * len(rows) + _legend_height(list(shown))
        figure, axes = new_figure(WIDTH if judged else 7, height, 2 if judged else 1, sharey=True)
        _whiskers(axes[0], rows, shown, lambda model, row: (table.cell(model, row), True))
        axes[0].set_yticks(range(len(rows)), [short(row) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        axes[0].set_xlabel(f"{table.metric.name} ({'higher' if table.metric.higher_is_better else 'lower'} is better)")
        if judged:

            def apart(model: str, row: str) -> tuple[Interval, bool]:
                difference = table.difference(model, control, row)
                return difference.interval, difference.verdict != "no clear difference"

            _whiskers(axes[1], rows, judged, apart)
            axes[1].axvline(0, color="#9aa0a8", linewidth=0.9, zorder=0)
            axes[1].set_xlabel(f"difference to {shortened(control)} (hollow: not clear)")
        for axis in axes:
            _grid(axis)
            axis.axhline(sum(row.kind != "average" for row in table.rows) - 0.5, color="#c6ccd2", linewidth=0.8)
        _legend(figure, shown)
        return to_svg(figure)


def _whiskers(
    axis: Axes, rows: list[str], models: Mapping[str, Look], found: Callable[[str, str], tuple[Interval, bool]]
) -> None:
    for (model, (shade, marker)), offset in zip(models.items(), _offsets(len(models)), strict=True):
        for k, row in enumerate(rows):
            interval, filled = found(model, row)
            y = k + offset
            axis.plot([interval.low, interval.high], [y, y], color=shade, linewidth=1.2, solid_capstyle="butt")
            face = shade if filled else "white"
            axis.plot([interval.mean], [y], marker, markersize=4.5, color=shade, markerfacecolor=face)


def _offsets(count: int) -> np.ndarray:
    """Where each of `count` stands within a row of height 1."""
    return (np.arange(count) - (count - 1) / 2) * min(0.2, 0.76 / count)


def _grid(axis: Axes) -> None:
    axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)


def _legend_columns(labels: list[str]) -> int:
    widest = max(len(shortened(label)) for label in labels)
    return max(1, int(WIDTH / (0.55 + 0.08 * widest)))  # inches of a marker and of a letter


def _legend_height(labels: list[str]) -> float:
    return 0.18 * -(-len(labels) // _legend_columns(labels))


def _legend(figure: Figure, models: Mapping[str, Look]) -> None:
    axis = figure.axes[0]
    for label, (shade, marker) in models.items():
        axis.plot([], [], marker, markersize=4.5, color=shade, label=shortened(label))
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside upper left",
        frameon=False,
        ncols=_legend_columns(list(models)),
        fontsize=8,
    )
