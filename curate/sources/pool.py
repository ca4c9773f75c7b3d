"""Sources in, one pool with unique ids out, and a `Rejected` for every row that did not make it.

Ids are what every later stage knows a row by, so they are made unique here: a row whose own id is taken is rejected;
a row without one is named by a hash of its content, with `-2`, `-3` for later copies, which the duplicate filter of
the clean stage then names. More than `max_rejected` rejected rows stop the run, since that is a wrong file or shape,
not dirt. The pool is held in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from curate.records import MAX_CHARACTERS, UNKNOWN, Example, Rejected, has_id, parse_row, reject
from curate.sources.files import RawRow, SourceError, missing_file, read_rows
from curate.sources.hub import looks_like_hub_id, read_hub_rows
from curate.sources.shapes import ShapeError, to_messages
from curate.sources.spec import SourceSpec

MAX_REJECTED = 0.01
MISSING_CAPABILITY = "capability is missing: a target needs one, in the row or in the source's `capability`"


@dataclass
class TakenIds:
    """The ids given out so far: where each was first seen, and how many copies of a content hash there are."""

    origins: dict[str, str] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)


class TooManyRejectedError(SourceError):
    """The share of rejected rows is above the limit; `rejected` holds them all."""

    def __init__(self, message: str, rejected: list[Rejected]):
        super().__init__(message)
        self.rejected = rejected


def read_source(
    spec: SourceSpec, *, max_characters: int = MAX_CHARACTERS, taken: TakenIds | None = None
) -> Iterator[Example | Rejected]:
    """The rows of one source in order, each as an `Example` or a `Rejected`; nothing is left out.

    taken: the ids of the rows read before this source; grows as rows are read.
    Raises `SourceError` when the source cannot be opened (at the first row asked for).
    """
    taken = TakenIds() if taken is None else taken
    name = _source_name(spec.path)
    for raw in islice(_raw_rows(spec), spec.limit):
        result = raw if isinstance(raw, Rejected) else _parse(spec, raw, name, max_characters, taken)
        if isinstance(result, Example):
            taken.origins[result.id] = result.origin
        yield result


def read_pool(
    specs: Iterable[SourceSpec], *, max_rejected: float = MAX_REJECTED, max_characters: int = MAX_CHARACTERS
) -> tuple[list[Example], list[Rejected]]:
    """All sources as one pool with unique ids: `(examples, rejected)`, together every row read.

    max_rejected: the largest tolerated share of rejected rows, 0 to 1. Raises `TooManyRejectedError` above it,
    `SourceError` when a source cannot be read or all of them hold no rows.
    """
    return _read(specs, max_rejected, max_characters, check=lambda result: result)


def read_targets(
    specs: Iterable[SourceSpec], *, max_rejected: float = MAX_REJECTED, max_characters: int = MAX_CHARACTERS
) -> tuple[list[Example], list[Rejected]]:
    """`read_pool` for targets: a row without a capability is rejected."""
    return _read(specs, max_rejected, max_characters, check=_require_capability)


def check_rejected_share(examples: int, rejected: list[Rejected], max_rejected: float) -> None:
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
    )


def _read(
    specs: Iterable[SourceSpec],
    max_rejected: float,
    max_characters: int,
    check: Callable[[Example | Rejected], Example | Rejected],
) -> tuple[list[Example], list[Rejected]]:
    examples: list[Example] = []
    rejected: list[Rejected] = []
    taken = TakenIds()
    specs = list(specs)
    for spec in specs:
        for result in read_source(spec, max_characters=max_characters, taken=taken):
            checked = check(result)
            if isinstance(checked, Example):
                examples.append(checked)
            else:
                rejected.append(checked)
    if not examples and not rejected:
        raise SourceError(
            f"no rows in {', '.join(spec.path for spec in specs) or 'an empty list of sources'}; add data"
        )
    check_rejected_share(len(examples), rejected, max_rejected)
    return examples, rejected


def _require_capability(result: Example | Rejected) -> Example | Rejected:
    if isinstance(result, Example) and not (result.capability and result.capability.strip()):
        return Rejected(result.origin, result.id, MISSING_CAPABILITY, result.messages[0].content[:200])
    return result


def _raw_rows(spec: SourceSpec) -> Iterator[RawRow | Rejected]:
    path = Path(spec.path)
    if path.exists():
        hub_only = [name for name in ("split", "subset", "revision") if getattr(spec, name) is not None]
        if hub_only:
            raise SourceError(
                f"{spec.path}: {', '.join(hub_only)} is for hub datasets; remove it, or name the split's file"
            )
        return read_rows(path)
    if looks_like_hub_id(spec.path):
        return read_hub_rows(spec)
    raise missing_file(path)


def _source_name(path: str) -> str:
    if not Path(path).exists():
        return path
    return (Path(path).stem if Path(path).is_file() else Path(path).resolve().name) or UNKNOWN


def _parse(spec: SourceSpec, raw: RawRow, name: str, max_characters: int, taken: TakenIds) -> Example | Rejected:
    origin, row = raw
    try:
        messages = to_messages(row, spec.shape)
    except ShapeError as error:
        return reject(origin, str(error), row)
    result = parse_row(
        {"id": row.get("id"), "messages": messages},
        origin=origin,
        source=_setting(spec.source, row, "source", name),
        license=_setting(spec.license, row, "license", UNKNOWN),
        domain=_setting(spec.domain, row, "domain", UNKNOWN),
        capability=_setting(spec.capability, row, "capability", None),
        max_characters=max_characters,
    )
    if isinstance(result, Rejected) or result.id not in taken.origins:
        return result
    if has_id(row):
        return reject(origin, "duplicate id", {"id": result.id, "first seen at": taken.origins[result.id]})
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
