"""The encoded rows of a gradient job, known by their content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from curate.influence.features import row_key
from curate.influence.scoring import InfluenceError
from train.encoding import Encoded, read_encoded


@dataclass(frozen=True)
class Rows:
    """Pool and targets in the order of their files; ids are unique in each."""

    pool: list[Encoded]
    targets: list[Encoded]

    @cached_property
    def keys(self) -> list[str]:
        """Content keys of the pool's rows."""
        return [row_key(row) for row in self.pool]

    @cached_property
    def by_key(self) -> dict[str, Encoded]:
        """Content key -> the first pool row of that content."""
        found: dict[str, Encoded] = {}
        for key, row in zip(self.keys, self.pool, strict=True):
            found.setdefault(key, row)
        return found

    @cached_property
    def targets_digest(self) -> str:
        return content_digest(self.targets)


def read_rows(pool: Path, targets: Path) -> Rows:
    """From the two files of encoded rows. Raises `InfluenceError` when an id is not unique."""
    rows = Rows(read_encoded(pool), read_encoded(targets))
    for path, part in ((pool, rows.pool), (targets, rows.targets)):
        twice = [row for row, count in Counter(row.id for row in part).items() if count > 1]
        if twice:
            raise InfluenceError(f"{path} has {len(twice)} ids more than once, {twice[0]!r} first; make ids unique")
    return rows


def content_digest(rows: Sequence[Encoded]) -> str:
    """Of tokens and labels in this order."""
    return hashlib.sha256("".join(row_key(row) for row in rows).encode()).hexdigest()[:20]
