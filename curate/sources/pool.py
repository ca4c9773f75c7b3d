"""Sources in, one pool with unique ids out, and a `Rejected` for every row that did not make it.

Ids are what every later stage knows a row by, so they are made unique here: a row whose own id is taken is rejected;
a row without one is named by a hash of its content, with `-2`, `-3` for later copies, which the duplicate filter of
the clean stage then names. More than `max_rejected` rejected rows stop the run, since that is a wrong file or shape,
not dirt. Memory holds the ids and origins of the rows, some 250 bytes each, and the rejected ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from curate.records import MAX_CHARACTERS, UNKNOWN, Example, Rejected, has_id, parse_row, reject
from curate.sources.errors import SourceError
from curate.sources.files import RawRow, read_rows
from curate.sources.hub import HubRows, looks_like_hub_id, resolve_commit
from curate.sources.opening import find_files, is_pattern, is_there, is_url, source_name
from curate.sources.report import UNRECOGNISED, FileReport, SourceReport
from curate.sources.shapes import detect_shape, to_messages
from curate.sources.spec import SourceSpec
from curate.sources.turns import ShapeError

MAX_REJECTED = 0.01
MISSING_CAPABILITY = "capability is missing: a target needs one, in the row or in the source's `capability`"


@dataclass
class TakenIds:
    """The ids given out so far: where each was first seen, and how many copies of a content hash there are."""

    origins: dict[str, str] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)


class TooManyRejectedError(SourceError):
    """The share of rejected rows is above the limit; `rejected` holds them all, `reports` what was read."""

    def __init__(self, message: str, rejected: list[Rejected], reports: Iterable[SourceReport] = ()):
        super().__init__(message)
        self.rejected = rejected
        self.reports = list(reports)


class Pool(NamedTuple):
    """Every row read, as an example or rejected, and what was read of each source."""

    examples: list[Example]
    rejected: list[Rejected]
    reports: list[SourceReport]


def read_source(
    spec: SourceSpec,
    *,
    max_characters: int = MAX_CHARACTERS,
    taken: TakenIds | None = None,
    report: SourceReport | None = None,
) -> Iterator[Example | Rejected]:
    """The rows of one source in order, each as an `Example` or a `Rejected`; nothing is left out.

    taken: the ids of the rows read before this source; grows as rows are read. report: the files, the commit and the
    shapes are entered there; counting rows is the caller's, who may judge further.
    Raises `SourceError` when the source cannot be opened (at the first row asked for) or turns out to be damaged.
    """
    taken = TakenIds() if taken is None else taken
    report = SourceReport.of(spec, "pool") if report is None else report
    name = _source_name(spec)
    for raw in islice(_raw_rows(spec, report), spec.limit):
        result = raw if isinstance(raw, Rejected) else _parse(spec, raw, name, max_characters, taken, report)
        if isinstance(result, Example):
            taken.origins[result.id] = result.origin
        yield result


def pinned(spec: SourceSpec) -> SourceSpec:
    """The spec with its hub revision as a commit, so that what is read is what was named; others as they are."""
    if not _is_hub(spec.path):
        return spec
    return spec.model_copy(update={"revision": resolve_commit(spec) or spec.revision})


def read_pool(
    specs: Iterable[SourceSpec], *, max_rejected: float = MAX_REJECTED, max_characters: int = MAX_CHARACTERS
) -> tuple[list[Example], list[Rejected]]:
    """All sources as one pool with unique ids: `(examples, rejected)`, together every row read.

    max_rejected: the largest tolerated share of rejected rows, 0 to 1. Raises `TooManyRejectedError` above it,
    `SourceError` when a source cannot be read or holds no rows.
    """
    return read_reported(specs, "pool", max_rejected=max_rejected, max_characters=max_characters)[:2]


def read_targets(
    specs: Iterable[SourceSpec], *, max_rejected: float = MAX_REJECTED, max_characters: int = MAX_CHARACTERS
) -> tuple[list[Example], list[Rejected]]:
    """`read_pool` for targets: a row without a capability is rejected."""
    return read_reported(specs, "targets", max_rejected=max_rejected, max_characters=max_characters)[:2]


def read_reported(
    specs: Iterable[SourceSpec],
    use: str,
    *,
    max_rejected: float = MAX_REJECTED,
    max_characters: int = MAX_CHARACTERS,
) -> Pool:
    """`read_pool` or `read_targets` (use: `pool` or `targets`) with a report per source."""
    examples: list[Example] = []
    rejected, reports = read_into(examples.append, specs, use, max_rejected=max_rejected, max_characters=max_characters)
    return Pool(examples, rejected, reports)


def read_into(
    write: Callable[[Example], None],
    specs: Iterable[SourceSpec],
    use: str,
    *,
    max_rejected: float = MAX_REJECTED,
    max_characters: int = MAX_CHARACTERS,
) -> tuple[list[Rejected], list[SourceReport]]:
    """`read_reported` that gives each example away as it is read, so that memory holds their ids only."""
    rejected: list[Rejected] = []
    reports: list[SourceReport] = []
    taken = TakenIds()
    examples = 0
    for spec in specs:
        report = SourceReport.of(spec, use)
        reports.append(report)
        for result in read_source(spec, max_characters=max_characters, taken=taken, report=report):
            checked = _require_capability(result) if use == "targets" else result
            report.count(checked)
            if isinstance(checked, Example):
                write(checked)
                examples += 1
            else:
                rejected.append(checked)
        if not report.rows:
            raise SourceError(f"no rows in {spec.path}; add data, or take the source out")
    if not reports:
        raise SourceError("no rows in an empty list of sources; add data")
    check_rejected_share(examples, rejected, max_rejected, reports)
    return rejected, reports


def check_rejected_share(
    examples: int, rejected: list[Rejected], max_rejected: float, reports: Iterable[SourceReport] = ()
) -> None:
    """Raise `TooManyRejectedError`, naming the commonest reasons and the first offending row, above the tolerated
    share."""
    total = examples + len(rejected)
    if len(rejected) <= max_rejected * total:
        return
    commonest = Counter(row.reason for row in rejected).most_common(3)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in commonest)
    raise TooManyRejectedError(
        f"{rejected[0].origin}: {rejected[0].reason}. In all {len(rejected)} of {total} rows were rejected "
        f"({len(rejected) / total:.1%}; max_rejected is {max_rejected:.1%}): {reasons}. "
        "Correct the rows or the source's `shape`, or raise max_rejected",
        rejected,
        reports,
    )


def _require_capability(result: Example | Rejected) -> Example | Rejected:
    if isinstance(result, Example) and not (result.capability and result.capability.strip()):
        return Rejected(result.origin, result.id, MISSING_CAPABILITY, result.messages[0].content[:200])
    return result


def _is_hub(path: str) -> bool:
    local = is_url(path) or is_pattern(path) or is_there(path)
    return not local and looks_like_hub_id(path)


def _raw_rows(spec: SourceSpec, report: SourceReport) -> Iterator[RawRow | Rejected]:
    if _is_hub(spec.path):
        rows = HubRows(spec)
        for raw in rows:
            report.revision = rows.commit
            yield raw
        return
    hub_only = [name for name in ("split", "subset", "revision", "stream") if getattr(spec, name)]
    if hub_only:
        raise SourceError(
            f"{spec.path}: {', '.join(hub_only)} is for hub datasets; remove it, or name the split's file"
        )
    for file in find_files(spec.path):
        report.files.append(FileReport(file.name, file.size))
        yield from read_rows(file)


def _source_name(spec: SourceSpec) -> str:
    return (spec.path if _is_hub(spec.path) else source_name(spec.path)) or UNKNOWN


def _parse(
    spec: SourceSpec, raw: RawRow, name: str, max_characters: int, taken: TakenIds, report: SourceReport
) -> Example | Rejected:
    """One raw row as an example with an id of its own, or why it is none."""
    origin, row = raw
    try:
        return _unique(_judge(spec, origin, row, name, max_characters, report), row, taken)
    except ShapeError as error:
        return reject(origin, str(error), row)
    except RecursionError:
        return reject(origin, "nested too deeply", row)


def _judge(
    spec: SourceSpec, origin: str, row: dict[str, Any], name: str, max_characters: int, report: SourceReport
) -> Example | Rejected:
    shape: str = spec.shape
    if shape == "auto":
        try:
            shape = detect_shape(row)
        except ShapeError:
            report.shapes[UNRECOGNISED] += 1
            raise
    report.shapes[shape] += 1
    messages = to_messages(row, shape)
    return parse_row(
        {"id": row.get("id"), "messages": messages},
        origin=origin,
        source=_setting(spec.source, row, "source", name),
        license=_setting(spec.license, row, "license", UNKNOWN),
        domain=_setting(spec.domain, row, "domain", UNKNOWN),
        capability=_setting(spec.capability, row, "capability", None),
        max_characters=max_characters,
    )


def _unique(result: Example | Rejected, row: dict[str, Any], taken: TakenIds) -> Example | Rejected:
    if isinstance(result, Rejected) or result.id not in taken.origins:
        return result
    if has_id(row):
        return reject(result.origin, "duplicate id", {"id": result.id, "first seen at": taken.origins[result.id]})
    while True:
        taken.copies[result.id] += 1
        copy = f"{result.id}-{taken.copies[result.id] + 1}"
        if copy not in taken.origins:
            return replace(result, id=copy)


def _setting(override: str | None, row: dict[str, Any], name: str, default: str | None) -> Any:
    """The source's own setting, else the row's value, else `default`; null and blank values count as absent."""
    if override is not None:
        return override
    value = row.get(name)
    return default if value is None or (isinstance(value, str) and not value.strip()) else value
