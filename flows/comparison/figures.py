"""The comparison's own figure: how alike every two arms' selections are, as a heat map; the others are the report's.

Cells say the Jaccard index, so that arms of different sizes can be read on one scale, and under it the rows in common.
Beyond some 16 arms the numbers no longer fit and only the shades are drawn.
"""

from __future__ import annotations

import numpy as np

from flows.comparison.values import RunComparison
from flows.report.figures import new_figure, short, styled, to_svg

MOST_NUMBERS = 16


def overlap_heat_map(found: RunComparison) -> str:
    """Arm x arm: Jaccard index of the selected rows."""
    arms = [arm.label for arm in found.arms]
    values, common = np.eye(len(arms)), np.diag([arm.rows for arm in found.arms])
    for i, first in enumerate(arms):
        for j, second in enumerate(arms[:i]):
            if (overlap := found.overlap(first, second)) is not None:
                values[i, j] = values[j, i] = overlap.jaccard or 0.0
                common[i, j] = common[j, i] = overlap.common
    with styled():
        cell = 0.85 if len(arms) <= MOST_NUMBERS else 0.4
        figure, (axis,) = new_figure(2.9 + cell * len(arms), 1.5 + 0.55 * cell * len(arms))
        image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        names = [short(arm, 22) for arm in arms]
        axis.set_xticks(range(len(arms)), names, rotation=35, ha="left", rotation_mode="anchor")
        axis.xaxis.tick_top()
        axis.set_yticks(range(len(arms)), names)
        if len(arms) <= MOST_NUMBERS:
            for (i, j), value in np.ndenumerate(values):
                shade = "white" if value > 0.55 else "#333"
                axis.text(j, i, f"{value:.2f}\n{common[i, j]:,}", ha="center", va="center", color=shade, fontsize=7.5)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, shrink=0.8, label="Jaccard index").outline.set_visible(False)
        return to_svg(figure)
