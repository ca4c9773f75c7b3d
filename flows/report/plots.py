"""The report's figures on evaluation."""

from __future__ import annotations

import numpy as np

from eval.compare import AVERAGE, MetricTable
from flows.report.figures import COLOURS, GREY, new_figure, styled, to_svg


def evaluation(table: MetricTable) -> str:
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
