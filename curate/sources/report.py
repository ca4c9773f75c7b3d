"""What was read of each source: files, shapes, rows, licences, attribution, revision and bytes.

This is what a person looks at first when a pool is not what was expected, and where the exported card takes whom to
name from. It is filled while rows are read, so a limit or an error leaves what had been read until then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.records import DataError, Example, Rejected
from curate.sources.spec import SourceSpec

COUNTERS = ("shapes", "sources", "licenses")
UNRECOGNISED = "unrecognised"  # rows in which no shape was found


@dataclass
class FileReport:
    """One file that was opened: its compressed size and what came of its rows."""

    file: str
    bytes: int
    rows: int = 0
    rejected: int = 0


@dataclass
class SourceReport:
    """One source of the configuration.

    use: `pool` or `targets`. revision: the hub commit. shape: as set; shapes: as found, name -> rows (rows that could
    not be parsed have none). licenses, sources: as the examples carry them, name -> rows.
    """

    use: str
    path: str
    shape: str
    attribution: str | None = None
    languages: list[str] = field(default_factory=list)
    revision: str | None = None
    rows: int = 0
    examples: int = 0
    rejected: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    files: list[FileReport] = field(default_factory=list)

    @classmethod
    def of(cls, spec: SourceSpec, use: str) -> SourceReport:
        return cls(use, spec.path, spec.shape, spec.attribution, list(spec.languages))

    @property
    def bytes(self) -> int | None:
        """Bytes of the files on disk, None for a hub dataset."""
        return sum(file.bytes for file in self.files) if self.files else None

    def count(self, result: Example | Rejected) -> None:
        """Enter one row."""
        bad = isinstance(result, Rejected)
        self.rows += 1
        self.rejected += bad
        self.examples += not bad
        if self.files:
            self.files[-1].rows += 1
            self.files[-1].rejected += bad
        if isinstance(result, Example):
            self.sources[result.source] += 1
            self.licenses[result.license] += 1

    def in_words(self) -> str:
        """One line for the log."""
        parts = [f"{self.rows:,} rows" + (f" of {_files(len(self.files))}, {self.bytes:,} bytes" if self.files else "")]
        parts.append(f"shape {_counts(self.shapes)}" + (f" (set: {self.shape})" if self.shape != "auto" else ""))
        parts.append(f"{self.rejected:,} rejected")
        parts.append(f"licence {_counts(self.licenses)}")
        parts += [f"revision {self.revision}"] if self.revision else []
        return f"{self.use} {self.path}: {'; '.join(parts)}"


def write_reports(path: Path, reports: Iterable[SourceReport]) -> None:
    """Write `sources.json`: one object per source, in the order of the configuration."""
    rows = [
        {
            **vars(report),
            **{name: dict(sorted(getattr(report, name).items())) for name in COUNTERS},
            "files": [vars(file) for file in report.files],
            "bytes": report.bytes,
        }
        for report in reports
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_reports(path: Path) -> list[SourceReport]:
    try:
        return [_report(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a table of sources ({error}); write it again with this version") from error


def attributions(reports: Iterable[SourceReport]) -> dict[str, tuple[str, ...]]:
    """Source name -> whom to name for its rows, of the pool only."""
    found: dict[str, tuple[str, ...]] = {}
    for report in reports:
        if report.use == "pool" and report.attribution:
            for source in report.sources:
                found[source] = tuple(dict.fromkeys([*found.get(source, ()), report.attribution]))
    return found


def revisions(reports: Iterable[SourceReport]) -> dict[str, str]:
    """Source name -> hub commit of its rows, of the pool only; of files there is none."""
    found = [(source, report.revision) for report in reports if report.use == "pool" for source in report.sources]
    return {source: revision for source, revision in found if revision}


def languages(reports: Iterable[SourceReport]) -> dict[str, tuple[str, ...]]:
    """Source name -> languages that its specification names, of the pool only."""
    found: dict[str, tuple[str, ...]] = {}
    for report in reports:
        for source in report.sources if report.use == "pool" else ():
            found[source] = tuple(dict.fromkeys([*found.get(source, ()), *report.languages]))
    return found


def _report(row: Mapping[str, Any]) -> SourceReport:
    plain = {name: value for name, value in row.items() if name not in ("bytes", "files", *COUNTERS)}
    report = SourceReport(**plain, files=[FileReport(**file) for file in row["files"]])
    for name in COUNTERS:
        getattr(report, name).update(row[name])
    return report


def _counts(counts: Mapping[str, int]) -> str:
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return (", ".join(f"{name} {count:,}" for name, count in shown[:5]) or "none") + more


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
