"""Evaluation items with one reference answer: what the held-out loss is measured on, and what the leakage guard
protects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

COLUMNS = ("id", "capability", "prompt", "target")


class ItemError(ValueError):
    """A file of evaluation items that lacks a column or repeats an id."""


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One scored item: the model is given `prompt` and judged on `target`."""

    id: str
    capability: str
    prompt: str
    target: str

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.target}]


def read_items(paths: Iterable[Path]) -> list[EvaluationItem]:
    """All items of all files, in order. Raises `ItemError` naming the file and the column or id."""
    items: list[EvaluationItem] = []
    seen: dict[str, Path] = {}
    for path in paths:
        names = pq.read_schema(path).names
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ItemError(
                f"{path} lacks the column(s) {', '.join(missing)}; an evaluation item needs {', '.join(COLUMNS)}"
            )
        for row in pq.read_table(path, columns=list(COLUMNS)).to_pylist():
            if row["id"] in seen:
                raise ItemError(f"{path}: item id {row['id']!r} is already in {seen[row['id']]}; ids must be unique")
            seen[row["id"]] = path
            items.append(EvaluationItem(**row))
    return items
