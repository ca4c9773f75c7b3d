"""The data behind the page's list of selected rows: texts, reasons and numbers as JSON inside the HTML file.

A page of its own may be opened from a disk where nothing else can be fetched, so the rows travel in it. What would end
a script element or a line of script (`<`, `>`, `&`, U+2028, U+2029) is written as an escape of JSON: no text of a row
can break out. Rows are taken by rank from all methods in turn until `MAX_ROWS` or `MAX_BYTES`, and the page says so.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curate.records import UNKNOWN, Example
from flows.report.reason_words import reason

if TYPE_CHECKING:
    from flows.report.data import Arm, Pick

MAX_ROWS = 2_000
MAX_BYTES = 2_000_000
MAX_CHARACTERS = 6_000  # of one conversation
ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


@dataclass(frozen=True)
class Embedded:
    """json: safe inside a script element; shown: picks in it; total: picks of all methods."""

    json: str
    shown: int
    total: int


def by_rank(arms: Sequence[Arm]) -> Iterator[tuple[int, int, Pick]]:
    """(method, rank from 0, pick): the first pick of every method, then the second of every method, and so on."""
    for rank in range(max((len(arm.picks) for arm in arms), default=0)):
        for method, arm in enumerate(arms):
            if rank < len(arm.picks):
                yield method, rank, arm.picks[rank]


def embed(
    arms: Sequence[Arm],
    conversations: Mapping[str, Example],
    included: Collection[str] = (),
    *,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
) -> Embedded:
    """The picks of all methods with what the list shows of them. conversations: by id, of those picks that have a text
    here; included: ids that the configuration asked for."""
    included = set(included)
    also: dict[str, list[list[int]]] = defaultdict(list)
    for method, rank, pick in by_rank(arms):
        also[pick.id].append([method, rank + 1])
    rows: list[str] = []
    picks: list[str] = []
    place: dict[str, int] = {}
    size = 0
    for method, rank, pick in by_rank(arms):
        row = place.get(pick.id, len(rows))
        texts = [] if pick.id in place else [safe_json(_row(pick, conversations.get(pick.id), also[pick.id]))]
        texts.append(safe_json(_pick(row, method, arms[method].name, rank + 1, pick, pick.id in included)))
        size += sum(len(text.encode()) + 1 for text in texts)
        if len(picks) == max_rows or size > max_bytes:
            break
        rows += texts[:-1]
        picks.append(texts[-1])
        place[pick.id] = row
    methods = safe_json([arm.name for arm in arms])
    text = f'{{"methods":{methods},"rows":[{",".join(rows)}],"picks":[{",".join(picks)}]}}'
    return Embedded(text, len(picks), sum(len(arm.picks) for arm in arms))


def safe_json(value: Any) -> str:
    """JSON that is the same value inside a script element, whatever its strings hold."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def _row(pick: Pick, example: Example | None, methods: list[list[int]]) -> dict[str, Any]:
    """What a row is, whichever method took it; `left`: characters of its text that are not in the page."""
    turns: list[list[str]] = []
    free = MAX_CHARACTERS
    total = 0
    for message in example.messages if example else ():
        total += len(message.content)
        if free > 0:
            turns.append([message.role, message.content[:free]])
            free -= len(message.content)
    kept = sum(len(text) for _, text in turns)
    licence = example.license if example and example.license != UNKNOWN else None
    return {
        "id": pick.id,
        "source": pick.source,
        "license": licence,
        "turns": turns,
        "left": total - kept,
        "methods": methods,
    }


def _pick(row: int, method: int, name: str, rank: int, pick: Pick, included: bool) -> dict[str, Any]:
    near = pick.neighbours[0] if pick.neighbours else None
    return {
        "row": row,
        "method": method,
        "rank": rank,
        "target": pick.target,
        "task": pick.task,
        "utility": None if pick.utility is None else round(pick.utility, 6),
        "share": None if pick.share is None else round(pick.share, 4),
        "near": None if near is None else [near[0], round(near[1], 4)],
        "reason": reason(name, rank, pick.target, pick.task, pick.utility, included),
    }
