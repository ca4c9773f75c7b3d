"""What the report's figures share: one style (thin axes, direct labels, colours that survive colour blindness) and
inline SVG that is the same bytes for the same values."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe-Ito: distinguishable with every common colour blindness
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#555555", "#F0E442")
GREY = "#8a8f98"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#444",
    "ytick.color": "#444",
    "text.parse_math": False,  # names come from data: two dollar signs in one are no formula
    "svg.hashsalt": "equipoise",
    "svg.fonttype": "none",
}


def styled() -> Any:
    """The context in which a figure is made and drawn."""
    return matplotlib.rc_context(STYLE)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` panels, in reading order; size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element; without metadata, and without the names of its groups, which every figure of a
    page would share."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text)


def short(name: str, length: int = 26) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def label_ends(axis: Axes, x: float, labels: Sequence[tuple[float, str, str]]) -> None:
    """(y, text, colour) written to the right of `x`, pushed apart where they would overlap; set the limits before."""
    low, high = axis.get_ylim()
    height = axis.get_window_extent().height * 72 / axis.figure.dpi
    gap = (high - low) * 10 / max(1.0, height)  # a line of this text is 10 points high
    ordered = sorted(labels)
    places = [y for y, _, _ in ordered]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    # what was pushed over the top goes down again
    top = high
    for k in range(len(places) - 1, -1, -1):
        places[k] = min(places[k], top)
        top = places[k] - gap
    for (_, text, shade), y in zip(ordered, places, strict=True):
        axis.annotate(
            text,
            (x, y),
            xytext=(4, 0),
            textcoords="offset points",
            color=shade,
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def thinned(count: int, points: int = 400) -> np.ndarray:
    """No more than `points` evenly spaced positions below `count`: a curve of 40,000 points draws no better."""
    return np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int))
