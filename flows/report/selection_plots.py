"""The report's figures on the selections: sources, influence, balance, utility, coverage and confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import matplotlib.ticker
import numpy as np

from curate.selection.explain import SourceShare
from flows.report.figures import GREY, colour, label_ends, new_figure, short, styled, thinned, to_svg

PANELS_PER_ROW = 5
LEFT_OUT = 0.02  # of the budget, at its start: a mean over one or two rows would set the scale


def source_shares(arms: Mapping[str, Sequence[SourceShare]]) -> str:
    """Per source its share of the pool as a bar, and of every selection as a dot."""
    with styled():
        first = next(iter(arms.values()))
        names = [share.source for share in first]
        figure, (axis,) = new_figure(8.6, 0.7 + 0.3 * len(names))
        rows = np.arange(len(names))
        axis.barh(rows, [share.pool_share for share in first], 0.62, color="#dfe3e8", label="pool")
        for k, (arm, shares) in enumerate(arms.items()):
            of_source = {share.source: share.selected_share for share in shares}
            offset = (k - (len(arms) - 1) / 2) * min(0.16, 0.5 / len(arms))
            values = [of_source[name] for name in names]
            axis.plot(values, rows + offset, "o", markersize=5, color=colour(k), label=arm, clip_on=False)
        axis.set_yticks(rows, [short(name) for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axis.set_xlabel("share of rows")
        axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return to_svg(figure)


def influence_heat_map(influence: Mapping[str, Mapping[str, float]]) -> str:
    """Source x task: mean z-score of the source's rows on the task's targets."""
    with styled():
        sources, tasks = list(influence), list(next(iter(influence.values())))
        values = np.array([[influence[s][t] for t in tasks] for s in sources])
        limit = max(1e-9, float(np.abs(values).max()))
        figure, (axis,) = new_figure(2.2 + 1.0 * len(tasks), 0.8 + 0.3 * len(sources))
        image = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axis.set_xticks(range(len(tasks)), [short(task, 14) for task in tasks])
        axis.xaxis.tick_top()
        axis.set_yticks(range(len(sources)), [short(s) for s in sources])
        for (i, j), value in np.ndenumerate(values):
            shade = "white" if abs(value) > 0.6 * limit else "#333"
            axis.text(j, i, f"{value:+.2f}", ha="center", va="center", color=shade, fontsize=8)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, shrink=0.7, label="mean z-score").outline.set_visible(False)
        return to_svg(figure)


def balance(spread: Mapping[str, Mapping], tasks: Sequence[str]) -> str:
    """Per method the average influence of its rows on every task, on one line: the shorter the line, the more even."""
    with styled():
        names = list(spread)
        figure, (axis,) = new_figure(8.6, 0.9 + 0.34 * len(names))
        for row, name in enumerate(names):
            per_task = spread[name]["aid_per_task"]
            found = [(per_task[task], colour(k)) for k, task in enumerate(tasks) if task in per_task]
            values = [value for value, _ in found]
            axis.plot([min(values), max(values)], [row, row], color="#c6ccd2", linewidth=2, zorder=1)
            axis.scatter(values, [row] * len(values), c=[shade for _, shade in found], s=34, zorder=2)
            axis.annotate(
                f"std {spread[name]['aid_between_task_std']:.3f}",
                (1.0, row),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#444",
            )
        for k, task in enumerate(tasks):
            axis.scatter([], [], color=colour(k), s=34, label=short(task, 18))
        axis.axvline(0, color="#9aa0a8", linewidth=0.8, zorder=0)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlabel("average influence of the selected rows on the task (z-scores; 0: the average row of the pool)")
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(6, len(tasks)), fontsize=8)
        return to_svg(figure)


def utility(
    curve: Sequence[Sequence[float]],
    budget: int,
    suggested: int | None,
    won: Sequence[str | None],
    tasks: Sequence[str],
) -> str:
    """Utility of each pick by rank, dashed beyond the budget, and how many picks every task has won so far."""
    with styled():
        figure, (left, right) = new_figure(9, 3.0, 2)
        ranks, values = np.array(curve).T
        inside = ranks <= budget
        left.plot(ranks[inside], values[inside], color=colour(0), linewidth=1.4)
        beyond = np.append(np.flatnonzero(inside)[-1:], np.flatnonzero(~inside))
        left.plot(ranks[beyond], values[beyond], color=colour(0), linewidth=1.2, linestyle=(0, (3, 2)))
        left.set_ylim(*_padded(values))
        left.axvline(budget, color=GREY, linewidth=0.9)
        marks = [(budget, f"budget {budget:,}", 0.98)]
        if suggested is not None:
            left.axvline(suggested, color="#D55E00", linewidth=0.9)
            marks.append((suggested, f"half of the start {suggested:,}", 0.88))
        for x, text, height in marks:
            left.annotate(
                text,
                (x, height),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color="#444",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},  # it may cross the other's line
            )
        left.set(xlabel="rank of the pick", ylabel="utility", title="What each pick adds (dashed: beyond the budget)")
        kept = thinned(len(won))
        totals = {task: np.cumsum([name == task for name in won]) for task in tasks}
        for k, task in enumerate(tasks):
            right.plot(kept + 1, totals[task][kept], color=colour(k), linewidth=1.4)
        right.set_ylim(bottom=0)
        right.set_xlim(0, len(won))
        right.set(xlabel="rank of the pick", ylabel="picks won", title="For which capability rows were picked")
        figure.draw_without_rendering()
        label_ends(right, len(won), [(float(totals[t][-1]), short(t, 16), colour(k)) for k, t in enumerate(tasks)])
        return to_svg(figure)


def coverage(arms: Mapping[str, Mapping], tasks: Sequence[str], figure_of: str, label: str) -> str:
    """One panel per task with a curve per method over the budget. figure_of: `recall`, `reached` or `influence`."""
    with styled():
        columns = min(PANELS_PER_ROW, len(tasks))
        rows = ceil(len(tasks) / columns)
        figure, axes = new_figure(9.2, 0.5 + 1.75 * rows, columns, rows, sharex=True, sharey=figure_of != "influence")
        for axis, task in zip(axes, tasks, strict=False):
            for k, found in enumerate(arms.values()):
                budgets, values = np.array(found["budgets"]), np.array(found[figure_of][task])
                shown = budgets >= LEFT_OUT * budgets[-1] if figure_of == "influence" else slice(None)
                axis.plot(budgets[shown], values[shown], color=colour(k), linewidth=1.4)
            axis.set_title(short(task, 18), fontsize=9)
            axis.grid(color="#eef0f2", linewidth=0.8)
            axis.margins(x=0)
            axis.tick_params(labelsize=7.5)
            axis.locator_params(axis="x", nbins=3)
            if figure_of != "influence":
                axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        if figure_of != "influence":
            axes[0].set_ylim(bottom=0)
        for axis in axes[len(tasks) :]:
            axis.set_visible(False)
        for k, arm in enumerate(arms):
            axes[0].plot([], [], color=colour(k), linewidth=1.4, label=arm)
        figure.supxlabel("rows selected so far", fontsize=8.5)
        figure.supylabel(label, fontsize=8.5)
        figure.legend(loc="outside upper left", frameon=False, ncols=6, fontsize=8)
        return to_svg(figure)


def confidence(arms: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Per method how often its selected rows, and the others, are chosen when the targets are drawn again.

    arms: name -> (share of resamples per row, whether the row is selected).
    """
    with styled():
        columns = min(3, len(arms))
        rows = ceil(len(arms) / columns)
        figure, axes = new_figure(max(5.0, 3.1 * columns), 0.3 + 2.2 * rows, columns, rows)
        edges = np.linspace(0, 1, 11)
        for axis, (name, (share, selected)) in zip(axes, arms.items(), strict=False):
            others = share[~selected & (share > 0)]
            axis.hist(
                [share[selected], others],
                bins=list(edges),
                stacked=True,
                color=[colour(0), "#d5d8dc"],
                rwidth=0.92,
                label=["selected", "not selected, chosen at least once"],
            )
            axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
            axis.set(title=name, xlim=(0, 1), xlabel="share of resamples", ylabel="rows")
        for axis in axes[len(arms) :]:
            axis.set_visible(False)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper left", frameon=False, ncols=2, fontsize=8
        )
        return to_svg(figure)


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), float(values.max())
    return low, high + 0.12 * max(high - low, 1e-9)
