"""The report's part on evaluation: what came of it in sentences, the tables' rows and their figure."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes

from eval.compare import BASE
from eval.statistics import Interval
from eval.tables import AVERAGE, BITS_PER_TOKEN, Comparison, MetricTable
from flows.report.figures import GREY, colour, new_figure, styled, to_svg


def headline(comparison: Comparison) -> list[str]:
    """What came of it in a sentence per metric and method; a difference whose interval contains zero is not called a
    win."""
    sentences = []
    for table in comparison.tables:
        if table.metric == BITS_PER_TOKEN:  # the same losses once more
            continue
        control = table.controls[-1] if table.controls else None
        for model in table.models:
            if control is None or model in table.controls:
                continue
            found = [table.difference(model, control, name) for name in table.capabilities]
            counts = Counter(d.verdict for d in found)
            average = table.difference(model, control, AVERAGE)
            sentences.append(
                f"{table.metric.name.capitalize()}: {model} against {control} is better on {counts['better']}, worse "
                f"on {counts['worse']} and not clearly different on {counts['no clear difference']} of {len(found)} "
                f"capabilities; on average {average.verdict} "
                f"({average.interval.mean:+.3f}, interval {average.interval.low:+.3f} to {average.interval.high:+.3f})."
            )
    return sentences


def result_rows(table: MetricTable) -> dict:
    """A table's rows as the page's template wants them: cells per model, differences to the last control."""
    control = table.controls[-1] if table.controls else None
    judged = [m for m in table.models if control and m not in table.controls]
    return {
        "metric": table.metric,
        "models": table.models,
        "judged": judged,
        "control": control,
        "rows": [
            {
                "name": row.name,
                "kind": row.kind,
                "cells": [table.cell(model, row.name) for model in table.models],
                "differences": [table.difference(model, str(control), row.name) for model in judged],
            }
            for row in table.rows
        ],
        "balance": table.balance,
        "seeds": max(cell.interval.runs for cell in table.cells),
    }


def figure_of(table: MetricTable) -> str:
    """Means with intervals per capability and model; beside them each model's difference to the last control, filled
    where it may be called better or worse."""
    with styled():
        rows = [row.name for row in table.rows]
        control = table.controls[-1] if table.controls else None
        judged = [m for m in table.models if control and m not in table.controls]
        figure, axes = new_figure(9 if judged else 7, 1.0 + 0.42 * len(rows), 2 if judged else 1, sharey=True)
        tuned = [m for m in table.models if m != BASE]  # in the order, and so the colours, of the other figures
        shades = {m: colour(tuned.index(m)) if m in tuned else GREY for m in table.models}
        places = np.arange(len(rows), dtype=float)
        for k, model in enumerate(table.models):
            at = places + (k - (len(table.models) - 1) / 2) * min(0.2, 0.7 / len(table.models))
            for row, y in zip(rows, at, strict=True):
                _whisker(axes[0], table.cell(model, row), y, shades[model], filled=True)
            axes[0].plot([], [], "o", markersize=4, color=shades[model], label=model)
        axes[0].set_yticks(places, rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        axes[0].set_xlabel(f"{table.metric.name} ({'higher' if table.metric.higher_is_better else 'lower'} is better)")
        for k, model in enumerate(judged):
            at = places + (k - (len(judged) - 1) / 2) * min(0.2, 0.7 / len(judged))
            for row, y in zip(rows, at, strict=True):
                found = table.difference(model, str(control), row)
                _whisker(axes[1], found.interval, y, shades[model], filled=found.verdict != "no clear difference")
        if judged:
            axes[1].axvline(0, color="#9aa0a8", linewidth=0.9, zorder=0)
            axes[1].set_xlabel(f"difference to {control} (hollow: not clear)")
        for axis in axes:
            axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
            axis.set_axisbelow(True)
            axis.axhline(sum(row.kind != "average" for row in table.rows) - 0.5, color="#c6ccd2", linewidth=0.8)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper left", frameon=False, ncols=6, fontsize=8
        )
        return to_svg(figure)


def _whisker(axis: Axes, interval: Interval, y: float, shade: str, *, filled: bool) -> None:
    axis.plot([interval.low, interval.high], [y, y], color=shade, linewidth=1.2, solid_capstyle="butt")
    axis.plot([interval.mean], [y], "o", markersize=4.5, color=shade, markerfacecolor=shade if filled else "white")
