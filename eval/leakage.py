"""The leakage guard: evaluation items whose text is also among the targets or the rows that train.

Targets steer, rows train, items score; a score over items that the model has seen measures memory. Cleaning keeps the
pool clear of the items it is told of, but not the targets, not the items of a benchmark that a task loads, and not
near-matches. So the items are looked up once more, as they were scored, by three tests from strict to wide: the same
normalised text, a run of 13 words (GPT-3, arXiv 2005.14165, appendix C), and a Jaccard similarity of word triples of
0.8 or more. What is found is excluded for every model alike and listed. Cost: about 1 ms per text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.cleaning.near_duplicates import near_matches
from curate.cleaning.word_runs import RUN_WORDS, WordRuns
from curate.cleaning.words import normalise

SIMILARITY = 0.8
SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ScoredText:
    """What an item shows the model."""

    task: str
    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class KnownText:
    """A text that steered or trained. kind: `target` or `training row`."""

    kind: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """An item that must not score, what it matched, how, and the text that shows it."""

    task: str
    item_id: str
    kind: str
    matched_id: str
    test: str
    matched_text: str


SCHEMA = pa.schema([(name, pa.string()) for name in Leak.__dataclass_fields__])


def find_leaks(items: Sequence[ScoredText], known: Sequence[KnownText], similarity: float = SIMILARITY) -> list[Leak]:
    """The items that overlap a known text, each once, with the strictest test that finds it."""
    same: dict[str, KnownText] = {}
    for text in known:
        same.setdefault(normalise(text.text), text)
    same.pop("", None)  # an empty turn says nothing about an item whose text is empty
    texts = [item.text for item in items]
    shared = WordRuns([text.text for text in known], only=texts).matches(texts)
    worded = [text for text in known if _has_words(text.text)]
    near = iter(near_matches(list(filter(_has_words, texts)), [text.text for text in worded], similarity))
    leaks = []
    for item, run in zip(items, shared, strict=True):
        alike = next(near) if _has_words(item.text) else None
        if match := same.get(normalise(item.text)):
            leaks.append(_leak(item, match, "same text", match.text))
        elif run is not None:
            leaks.append(_leak(item, known[run[0]], f"{RUN_WORDS} words in a row", run[1]))
        elif alike is not None:
            match = worded[alike[0]]
            leaks.append(_leak(item, match, f"near match, similarity {alike[1]:.2f}", match.text))
    return leaks


def _has_words(text: str) -> bool:
    """Whether there is anything to be similar in: all texts of signs alone have the same, empty words."""
    return any(map(str.isalnum, text))


def _leak(item: ScoredText, match: KnownText, test: str, text: str) -> Leak:
    shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
    return Leak(item.task, item.item_id, match.kind, match.id, test, shown)


def write_leaks(path: Path, leaks: Iterable[Leak]) -> None:
    """A Parquet file of the leaks; an empty one has the same columns."""
    pq.write_table(pa.Table.from_pylist([asdict(leak) for leak in leaks], schema=SCHEMA), path)


def read_leaks(path: Path) -> list[Leak]:
    return [Leak(**row) for row in pq.read_table(path).to_pylist()]
