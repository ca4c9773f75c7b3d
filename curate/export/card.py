"""The dataset card: a YAML header for the hub and `datasets`, and sections for a reader; and the page of licences.

What others wrote (source names, licences, attributions) passes `markdown.plain`: it is shown and never acts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.export.card_header import DataSize, header
from curate.export.licenses import Standing, conflicts, is_allowed, terms
from curate.export.loading import loading_section
from curate.export.markdown import plain, table
from curate.export.settings import ExportSettings
from curate.export.trainers import TrainerFiles
from curate.records import Example

CARD, LICENSES = "README.md", "LICENSE.md"


@dataclass(frozen=True)
class PoolSource:
    """Rows of one source under one licence in the pool before cleaning and selection; attribution: whom to name;
    revision: the hub commit, empty for files."""

    source: str
    license: str
    rows: int
    attribution: tuple[str, ...] = ()
    revision: str = ""


@dataclass(frozen=True)
class CardInfo:
    """What the dataset card says beyond what the rows show.

    title: heading. name: the dataset's short name, for trainers and citation. summary: what the dataset is, for whom.
    method: how rows were selected, with budget and base model. pool: the pool that was drawn from (`pool_sources`).
    read: pool rows read; fates: what became of those that are not exported, reason -> rows, in the order of the work;
    None if not known. gaps: known gaps, one sentence each. languages: ISO 639 codes; tags: for the header.
    """

    title: str
    summary: str
    method: str
    pool: tuple[PoolSource, ...]
    name: str = "selection"
    read: int | None = None
    fates: Mapping[str, int] | None = None
    gaps: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("equipoise", "instruction-tuning", "data-selection")


def pool_sources(
    examples: Iterable[Example],
    attributions: Mapping[str, Sequence[str]] | None = None,
    revisions: Mapping[str, str] | None = None,
) -> tuple[PoolSource, ...]:
    """`counted_sources` of examples."""
    counts = Counter((example.source, example.license) for example in examples)
    return counted_sources(counts, attributions or {}, revisions or {})


def counted_sources(
    counts: Mapping[tuple[str, str], int], attributions: Mapping[str, Sequence[str]], revisions: Mapping[str, str]
) -> tuple[PoolSource, ...]:
    """Rows per source and licence, most rows first, then by name. attributions: source -> whom to name for its rows;
    revisions: source -> hub commit."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        PoolSource(source, license, rows, tuple(attributions.get(source, ())), revisions.get(source, ""))
        for (source, license), rows in ordered
    )


def dataset_card(
    card: CardInfo,
    examples: Sequence[Example],
    *,
    data: DataSize | None = None,
    trainers: TrainerFiles | None = None,
    settings: ExportSettings | None = None,
) -> str:
    """The README.md for the given selected examples. data: bytes of the shards, for the header; trainers: what the
    chat files hold, for the section on loading."""
    settings = settings or ExportSettings()
    counts = Counter(example.license for example in examples)
    head = header(
        title=card.title, rows=len(examples), licenses=counts, languages=card.languages, tags=card.tags, data=data
    )
    sections = [
        f"---\n{head}\n---",
        f"# {plain(card.title)}",
        card.summary,
        f"{len(examples):,} conversations in rank order (`rank` 0 is the first pick). `utility` is the selection "
        "criterion at that pick, `task` the capability it was taken for.",
        "## Sources before and after",
        _source_table(card.pool, examples),
        "Every row keeps its source and its licence; the licences are the sources' own.",
        "## Licences",
        *_license_sections(counts, settings.allow_licenses),
        *_attribution(card.pool, examples),
        "## How rows were selected",
        card.method,
        "## What became of the other rows",
        _fates(card, len(examples)),
        "## Known gaps",
        "\n".join(f"- {gap}" for gap in card.gaps) or "- None are recorded.",
        *(["## Loading it", *loading_section(card.name, trainers)] if trainers else []),
        "## Files",
        "`data/train-*.parquet` is what `load_dataset` opens. `chat.jsonl` holds the same conversations in the same "
        'order as `{"messages": [...]}` lines, `lineage.parquet` where each row comes from, what was done to it, which '
        "filters it passed and its scores, `LICENSE.md` the licences, `croissant.json` a Croissant description, and "
        "`manifest.json` checksums of all files.",
        "## Citation",
        f"```bibtex\n{citation(card, settings.creator)}\n```",
        "Name the sources as their licences ask.",
    ]
    return "\n\n".join(sections) + "\n"


def licenses_page(card: CardInfo, examples: Sequence[Example], allowed: Sequence[str]) -> str:
    """LICENSE.md: which rows are under which licence, what it asks for, and whom to name."""
    counts = Counter(example.license for example in examples)
    rows = Counter((example.source, example.license) for example in examples)
    lines = [[plain(source), plain(license), f"{count:,}"] for (source, license), count in sorted(rows.items())]
    sections = [
        "# Licences",
        "This collection has no licence of its own beyond those of its rows: each row is under the licence of its "
        "source, in its column `license`.",
        *_license_sections(counts, allowed),
        "## Sources",
        table(["source", "licence", "rows"], lines, right=1),
        *_attribution(card.pool, examples),
    ]
    return "\n\n".join(sections) + "\n"


def citation(card: CardInfo, creator: str | None) -> str:
    """A BibTeX entry without a date, which the clock would have to give."""
    author = f"  author = {{{_bibtex(creator)}}},\n" if creator else ""
    return (
        f"@misc{{{card.name},\n  title = {{{_bibtex(card.title)}}},\n{author}"
        "  note = {Selected with Equipoise; the rows are their sources' own}\n}"
    )


def _license_sections(counts: Mapping[str, int], allowed: Sequence[str]) -> list[str]:
    known = {license: terms(license) for license in counts}
    rows = [[plain(name), known[name].in_words(), f"{count:,}"] for name, count in sorted(counts.items())]
    sections = [table(["licence", "asks for", "rows"], rows, right=1)]
    unclear = sorted(name for name in counts if known[name].standing is Standing.UNKNOWN)
    if unclear:
        total = sum(counts[name] for name in unclear)
        sections.append(
            f"**{total:,} rows have a licence whose terms are not known ({_listed(unclear)}).** See their sources "
            "before you pass them on."
        )
    lifted = sorted(name for name in counts if known[name].standing is not Standing.OPEN and is_allowed(name, allowed))
    if lifted:
        sections.append(f"Allowed by name by whoever exported this: {_listed(lifted)}.")
    for condition, told in (("share_alike", "Share-alike"), ("non_commercial", "No commercial use")):
        found = sorted(name for name in counts if getattr(known[name], condition))
        if found:
            sections.append(f"{told}: {_listed(found)}.")
    sections += [
        f"**Rows under {plain(one)} and under {plain(two)} cannot be joined into one work;** keep them apart, or leave "
        "one out."
        for one, two in conflicts(counts)
    ]
    return sections


def _listed(names: Sequence[str]) -> str:
    return ", ".join(plain(name) for name in names)


def _source_table(pool: Sequence[PoolSource], examples: Sequence[Example]) -> str:
    selected = Counter((example.source, example.license) for example in examples)
    before = {(entry.source, entry.license): entry for entry in pool}
    whole = sum(entry.rows for entry in pool)
    lines = []
    for key in [*before, *sorted(set(selected) - set(before))]:
        entry, chosen = before.get(key, PoolSource(*key, 0)), selected[key]
        shares = [
            f"{entry.rows:,}",
            f"{entry.rows / max(1, whole):.1%}",
            f"{chosen:,}",
            f"{chosen / len(examples):.1%}",
        ]
        lines.append([plain(key[0]), plain(key[1]), plain(entry.revision) or "local files", *shares])
    return table(["source", "licence", "revision", "pool", "share", "selected", "share"], lines, right=4)


def _attribution(pool: Sequence[PoolSource], examples: Sequence[Example]) -> list[str]:
    """The section that names whom the licences of the selected rows ask to name, empty when the sources tell none."""
    selected = {example.source for example in examples}
    named = {entry.source: entry.attribution for entry in pool if entry.attribution and entry.source in selected}
    if not named:
        return []
    return ["## Attribution", "\n".join(f"- {plain(source)}: {plain('; '.join(named[source]))}" for source in named)]


def _fates(card: CardInfo, exported: int) -> str:
    if card.read is None or card.fates is None:
        return "Not recorded."
    rows: list[tuple[str, int]] = [("read", card.read), *card.fates.items(), ("exported", exported)]
    return table(["rows", "number"], [[plain(what), f"{count:,}"] for what, count in rows], right=1)


def _bibtex(text: Any) -> str:
    """Text that cannot leave its braces or the fence around the entry."""
    return " ".join("".join(c for c in str(text) if c not in "{}\\`" and c.isprintable()).split())
