"""The report's part on evaluation: what came of it in sentences, the tables' rows and their figure."""

from __future__ import annotations

from collections import Counter

import numpy as np

from eval.compare import AVERAGE, Comparison, MetricTable
from flows.report.figures import COLOURS, GREY, new_figure, styled, to_svg


def headline(comparison: Comparison) -> list[str]:
    """What came of it in a sentence per metric and method; a difference whose interval contains zero is not called a
    win."""
    sentences = []
    for table in comparison.tables:
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
    names = [*table.capabilities, AVERAGE]
    return {
        "metric": table.metric,
        "models": table.models,
        "judged": judged,
        "control": control,
        "rows": [
            {
                "name": name,
                "cells": [table.cell(model, name) for model in table.models],
                "differences": [table.difference(model, str(control), name) for model in judged],
            }
            for name in names
        ],
    }


def figure_of(table: MetricTable) -> str:
    """Means with intervals per capability and model."""
    with styled():
        names = [*table.capabilities, AVERAGE]
        figure, (axis,) = new_figure(8, 0.7 + 0.5 * len(names))
        rows = np.arange(len(names), dtype=float)
        for k, model in enumerate(table.models):
            cells = [table.cell(model, name) for name in names]
            means = np.array([c.mean for c in cells])
            errors = np.array([[c.mean - c.low for c in cells], [c.high - c.mean for c in cells]])
            axis.errorbar(
                means,
                rows + (k - (len(table.models) - 1) / 2) * 0.2,
                xerr=np.maximum(errors, 0),
                fmt="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=model,
                color=GREY if k == 0 else COLOURS[k - 1],
            )
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.set_xlabel(f"{table.metric.name} ({'higher' if table.metric.higher_is_better else 'lower'} is better)")
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
        axis.set_axisbelow(True)
        return to_svg(figure)
