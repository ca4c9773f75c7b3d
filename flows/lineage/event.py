"""One line of a story, and how the tables of a stage are asked about one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Event:
    """What one stage did with the row. told: one line for a person; facts: the same as plain values."""

    stage: str
    told: str
    facts: dict[str, Any] = field(default_factory=dict)


def rows_with(path: Path, column: str, value: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file with this value; none where there is no such file."""
    return pq.read_table(path, filters=[(column, "=", value)]).to_pylist() if path.is_file() else []


def short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
