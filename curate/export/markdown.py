"""Text of others (source names, licences, attributions) as Markdown that shows it and does nothing else.

The card is rendered as HTML by the hub; a source may be called `<img onerror=...>` or `[click](javascript:...)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ACTIVE = re.compile(r"[\\`*\[\]|~$#]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: str) -> str:
    """One line with nothing in it that Markdown or HTML acts on."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    line = re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], line)
    line = _ACTIVE.sub(lambda found: f"\\{found[0]}", line)
    return re.sub(r"^([-+=]|\d+[.)])", r"\\\1", line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> str:
    """A table whose last `right` columns hold numbers; cells are Markdown already."""
    rule = ["---"] * (len(columns) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))
