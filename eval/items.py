"""Evaluation items with one reference answer: what the held-out loss is measured on, and what the leakage guard
protects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("id", "capability", "prompt", "target")


class ItemError(ValueError):
    """A file of evaluation items that cannot be read, lacks a column or a text, or repeats an id."""


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
    """All items of all files, in order. Raises `ItemError` naming the file and the column, row or id."""
    items: list[EvaluationItem] = []
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            names = pq.read_schema(path).names
        except (OSError, pa.ArrowInvalid) as error:
            raise ItemError(f"{path} is no Parquet file that can be read: {error}") from error
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ItemError(
                f"{path} lacks the column(s) {', '.join(missing)}; an evaluation item needs {', '.join(COLUMNS)}"
            )
        for number, row in enumerate(pq.read_table(path, columns=list(COLUMNS)).to_pylist()):
            if wrong := next((column for column in COLUMNS if not isinstance(row[column], str)), None):
                raise ItemError(
                    f"{path}, row {number}, id {row['id']!r}: {wrong} must be a text, and is {row[wrong]!r:.80}; mend "
                    "or leave out the row"
                )
            if row["id"] in seen:
                raise ItemError(f"{path}: item id {row['id']!r} is already in {seen[row['id']]}; ids must be unique")
            seen[row["id"]] = path
            items.append(EvaluationItem(**row))
    return items
