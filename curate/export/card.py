"""The dataset card: a YAML header for the hub and `datasets`, and sections for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from curate.export.licenses import hub_license
from curate.records import Example

CARD, CHAT, MANIFEST = "README.md", "chat.jsonl", "manifest.json"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST_SIZE = "n>1M"


@dataclass(frozen=True)
class PoolSource:
    """Rows of one source under one licence in the pool before cleaning and selection; attribution: whom to name."""

    source: str
    license: str
    rows: int
    attribution: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardInfo:
    """What the dataset card says beyond what the rows show.

    title: heading. summary: what the dataset is, for whom. method: how rows were selected, with budget and base
    model. pool: the pool that was drawn from (`pool_sources`). removed: filter name -> rows it took out. gaps: known
    gaps, one sentence each. languages, tags: for the header, as the hub writes them.
    """

    title: str
    summary: str
    method: str
    pool: tuple[PoolSource, ...]
    removed: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("equipoise", "instruction-tuning", "data-selection")


def pool_sources(
    examples: Iterable[Example], attributions: Mapping[str, Sequence[str]] | None = None
) -> tuple[PoolSource, ...]:
    """Rows per source and licence, most rows first, then by name. attributions: source -> whom to name for its rows."""
    named = attributions or {}
    counts = Counter((example.source, example.license) for example in examples)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(PoolSource(source, license, rows, tuple(named.get(source, ()))) for (source, license), rows in ordered)


def dataset_card(card: CardInfo, examples: Sequence[Example]) -> str:
    """The README.md: YAML header and sections, for the given selected examples."""
    from huggingface_hub import DatasetCardData

    total = len(examples)
    header = DatasetCardData(
        language=list(card.languages) or None,
        license=sorted({hub_license(example.license) for example in examples}),
        task_categories=["text-generation"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), _LARGEST_SIZE)],
        tags=list(card.tags),
        pretty_name=card.title,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    removed = [f"| {_cell(name)} | {count:,} |" for name, count in card.removed.items()] or ["| none | 0 |"]
    gaps = [f"- {gap}" for gap in card.gaps] or ["- None are recorded."]
    sections = [
        f"---\n{header.to_yaml()}\n---",
        f"# {card.title}",
        card.summary,
        f"{total:,} conversations in rank order (`rank` 0 is the first pick). `utility` is the selection criterion at "
        "that pick, `task` the capability it was taken for.",
        "## Sources before and after",
        "\n".join(_source_table(card.pool, examples)),
        "Every row keeps its source and its licence; the licences above are the sources' own.",
        *_attribution(card.pool, examples),
        "## How rows were selected",
        card.method,
        "## What was filtered out before",
        "\n".join(["| filter | rows removed |", "| --- | ---: |", *removed]),
        "## Known gaps",
        "\n".join(gaps),
        "## Files",
        f"`data/train-*.parquet` is what `load_dataset` opens; `{CHAT}` holds the same conversations in the same order "
        f'as `{{"messages": [...]}}` lines; `{MANIFEST}` holds checksums and the lineage.',
    ]
    return "\n\n".join(sections) + "\n"


def _source_table(pool: Sequence[PoolSource], examples: Sequence[Example]) -> list[str]:
    selected = Counter((example.source, example.license) for example in examples)
    before = {(entry.source, entry.license): entry.rows for entry in pool}
    whole = sum(before.values())
    lines = ["| source | licence | pool | share | selected | share |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for key in [*before, *sorted(set(selected) - set(before))]:
        rows, chosen = before.get(key, 0), selected[key]
        lines.append(
            f"| {_cell(key[0])} | {_cell(key[1])} | {rows:,} | {rows / max(1, whole):.1%} "
            f"| {chosen:,} | {chosen / len(examples):.1%} |"
        )
    return lines


def _attribution(pool: Sequence[PoolSource], examples: Sequence[Example]) -> list[str]:
    """The section that names whom the licences of the selected rows ask to name, empty when the sources tell none."""
    selected = {example.source for example in examples}
    named = {entry.source: entry.attribution for entry in pool if entry.attribution and entry.source in selected}
    if not named:
        return []
    return ["## Attribution", "\n".join(f"- {_cell(source)}: {_cell('; '.join(named[source]))}" for source in named)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
