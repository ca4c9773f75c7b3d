"""What encoding made of the rows, counted by source, and whether that is enough to train on.

A wrong `max_length` or a wrong chat template does not fail: it trains on fewer tokens than the rows hold, or on answers
that never end. So every row gets a record, and a run stops with the figures before its first training step when too
few rows or labels are left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from train.rendering import Finding
from train.settings import AuditSettings

SHOWN_SOURCES = 8
TOLD_LOST_SHARE = 0.01
# the template does not do with the row what the row says; the other findings are told and stop nothing
MISMATCHES = frozenset(
    {
        *(Finding.REFUSED_SYSTEM, Finding.REFUSED_TOOL, Finding.REFUSED, Finding.NOT_FOUND),
        *(Finding.DROPPED_SYSTEM, Finding.DROPPED_TOOL, Finding.REWRITTEN),
        *(Finding.NO_END, Finding.SPLIT_TOKEN, Finding.DOUBLED_BOS),
    }
)
AUDIT_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("lost_labels", pa.int64()),
        ("truncated", pa.bool_()),
        ("findings", pa.list_(pa.string())),
        ("excluded", pa.string()),
    ]
)


class AuditError(ValueError):
    """Encoding leaves too little to train on; the message has the figures and the remedy."""


@dataclass(frozen=True)
class RowAudit:
    """One row after encoding. tokens and trained_tokens: what is left of it within max_length, 0 when it is excluded;
    lost_labels: tokens of its answers beyond max_length; excluded: the reason, empty for a row that is trained on."""

    id: str
    source: str
    tokens: int
    trained_tokens: int
    lost_labels: int
    truncated: bool
    findings: tuple[Finding, ...] = ()
    excluded: str = ""


def summary(rows: Iterable[RowAudit]) -> dict[str, Any]:
    """The sums over all rows, and the same by source (largest first) under `sources`."""
    by_source: dict[str, list[RowAudit]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    ordered = sorted(by_source.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        **_sums([row for _, part in ordered for row in part]),
        "sources": {source: _sums(part) for source, part in ordered},
    }


def _sums(rows: Sequence[RowAudit]) -> dict[str, Any]:
    kept = [row for row in rows if not row.excluded]
    tokens, trained = sum(row.tokens for row in kept), sum(row.trained_tokens for row in kept)
    lost = sum(row.lost_labels for row in rows)
    found = Counter(finding for row in rows for finding in row.findings)
    mismatched = sum(not MISMATCHES.isdisjoint(row.findings) for row in rows)
    return {
        "rows_in": len(rows),
        "rows": len(kept),
        "excluded_rows": len(rows) - len(kept),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": trained / tokens if tokens else 0.0,
        "lost_labels": lost,
        "lost_share": lost / (trained + lost) if lost else 0.0,
        "truncated_rows": sum(row.truncated for row in rows),
        "mismatched_rows": mismatched,
        "findings": {finding.value: found[finding] for finding in Finding if found[finding]},
    }


def check(parts: Mapping[str, Mapping[str, Any]], settings: AuditSettings, max_length: int, where: Path) -> None:
    """Raises `AuditError` naming every limit that is passed, with the figures of each source.

    parts: "pool" and "targets", as `summary` gives them; where: the file that holds all of it.
    """
    problems = []
    for name, part in parts.items():
        if told := list(_problems(part, settings, max_length)):
            problems += [f"the {name}:", *(f"  - {line}" for line in told), *_by_source(part)]
    if problems:
        raise AuditError(
            "too little to train on is left after encoding\n" + "\n".join(problems) + f"\nrow by row: {where}\n"
            "A limit that is too strict for this data can be set in the configuration under `audit`."
        )


def _problems(part: Mapping[str, Any], settings: AuditSettings, max_length: int) -> Iterator[str]:
    rows, left = part["rows_in"], part["rows"]
    if left < settings.min_rows * rows or not left:
        yield (
            f"{left:,} of {rows:,} rows are left ({left / max(rows, 1):.1%}; audit.min_rows is "
            f"{settings.min_rows:.1%}): see below what the others are excluded for"
        )
    lost, labels = part["lost_labels"], part["trained_tokens"] + part["lost_labels"]
    if part["lost_share"] > settings.max_lost_labels:
        yield (
            f"{lost:,} of the answers' {labels:,} tokens are beyond max_length {max_length} ({part['lost_share']:.1%}; "
            f"audit.max_lost_labels is {settings.max_lost_labels:.1%}): raise max_length"
        )
    wrong = part["mismatched_rows"]
    if wrong > settings.max_mismatched * rows:
        yield (
            f"the chat template does not do with {wrong:,} of {rows:,} rows what they say ({wrong / rows:.1%}; "
            f"audit.max_mismatched is {settings.max_mismatched:.1%}): mend the template, or give the tokenizer this "
            "model's own"
        )


def _by_source(part: Mapping[str, Any]) -> list[str]:
    lines = [f"  {source}: {in_words(sums)}" for source, sums in list(part["sources"].items())[:SHOWN_SOURCES]]
    rest = len(part["sources"]) - SHOWN_SOURCES
    return [*lines, f"  and {rest} more sources"] if rest > 0 else lines


def in_words(sums: Mapping[str, Any]) -> str:
    """One line on a source or a part."""
    told = [f"{sums['rows_in']:,} rows", f"{sums['rows']:,} left", f"{sums['trained_tokens']:,} tokens trained"]
    if sums["lost_labels"]:
        told.append(f"{sums['lost_labels']:,} lost by truncation ({sums['lost_share']:.0%})")
    return ", ".join([*told, *(f"{count:,} rows: {finding}" for finding, count in sums["findings"].items())])


def worth_telling(sums: Mapping[str, Any]) -> bool:
    """Whether anything but the encoding as the rows say it came of a source's rows; a few cut ends are no news."""
    return bool(sums["excluded_rows"] or sums["findings"] or sums["lost_share"] > TOLD_LOST_SHARE)


def write_audit(path: Path, parts: Mapping[str, Iterable[RowAudit]]) -> None:
    """One row of the table per row of the parts."""
    rows = [
        {**vars(row), "part": name, "findings": [finding.value for finding in row.findings]}
        for name, audited in parts.items()
        for row in audited
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=AUDIT_SCHEMA), path)
