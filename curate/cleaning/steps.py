"""The filters of a run in their order, and what each did to whom.

First what is always removed (copies, then rows that are in the targets or the evaluation); then what a row is judged
by alone; then likeness between rows, so that the one kept of a group is one that every other filter let pass. Cheap
filters come before those with a model, and masking before likeness, so that rows which differ in an address only are
copies of each other afterwards. Languages are detected once, before anything is masked.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.cleaning.balance import GroupRate, Split, group_rates
from curate.cleaning.contract import Cleaned, Editor, Filter, Reference, Step, clean
from curate.cleaning.exact_duplicates import ExactDuplicates, TargetOverlap
from curate.cleaning.language import Language, detect_languages
from curate.cleaning.leakage import NearMatch, WordRunOverlap
from curate.cleaning.near_duplicates import NearDuplicates
from curate.cleaning.personal_data import PersonalDataDrop, PersonalDataMask
from curate.cleaning.quality import Quality
from curate.cleaning.scored import Equal
from curate.cleaning.settings import CleaningSettings, Grouping
from curate.records import Example

CLEANING = "cleaning.json"
LIBRARIES = {  # filter -> what decides beside this code
    "near_match": ("datasketch",),
    "language": ("py3langid",),
    "personal_data": ("phonenumbers", "detect-secrets"),
    "toxicity": ("transformers",),
    "near_duplicates": ("datasketch",),
    "semantic_duplicates": ("transformers", "faiss-cpu"),
}


def run_filters(
    pool: Sequence[Example], references: Sequence[Reference], settings: CleaningSettings
) -> tuple[Cleaned, list[GroupRate]]:
    """Clean the pool as the settings say, and count who paid for it.

    references: what the pool must not contain. Raises `DataError` and `train.models.ModelError` for a model that does
    not fit.
    """
    languages = _languages(pool, settings)
    groups: dict[Grouping, Callable[[Example], str]] = {
        "source": lambda example: example.source,
        "domain": lambda example: example.domain,
        "language": lambda example: languages[example.id],
    }
    cleaned = clean(pool, filters_of(settings, references, languages, groups))
    rows = {example.id: example for example in pool}
    splits = [
        _split(step, by, {name: groups[by](rows[name]) for name in step.given})
        for step in cleaned.steps
        for by in settings.groupings
    ]
    return cleaned, group_rates(splits, ratio=settings.balance.ratio, alpha=settings.balance.alpha)


def filters_of(
    settings: CleaningSettings,
    references: Sequence[Reference],
    languages: Mapping[str, str],
    groups: Mapping[Grouping, Callable[[Example], str]],
) -> Iterator[Filter | Editor]:
    """Those that are on, each made when its turn comes, so that two models are never in memory together."""

    def equal(by: Grouping | None) -> Equal | None:
        return None if by is None else Equal(by, groups[by])

    yield ExactDuplicates()
    yield TargetOverlap(references)
    yield WordRunOverlap(references)
    if settings.near_match:
        yield NearMatch(references, settings.near_match.threshold)
    if settings.language:
        yield Language(settings.language.wanted, languages)
    if settings.quality:
        yield Quality(settings.quality, equal(settings.quality.equalise))
    if settings.personal_data:
        masks = settings.personal_data.action == "mask"
        yield PersonalDataMask(settings.personal_data) if masks else PersonalDataDrop(settings.personal_data)
    if settings.toxicity:
        from curate.cleaning.toxicity import Toxicity

        yield Toxicity(settings.toxicity, equal(settings.toxicity.equalise))
    if settings.near_duplicates:
        yield NearDuplicates(settings.near_duplicates.threshold)
    if settings.semantic_duplicates:
        from curate.cleaning.semantic_duplicates import SemanticDuplicates

        yield SemanticDuplicates(settings.semantic_duplicates, equal(settings.semantic_duplicates.equalise))


def models_of(settings: CleaningSettings) -> dict[str, str]:
    """Filter -> folder or hub id of its model, of the filters that are on."""
    on = {"toxicity": settings.toxicity, "semantic_duplicates": settings.semantic_duplicates}
    return {name: step.model for name, step in on.items() if step is not None}


def libraries_of(settings: CleaningSettings) -> dict[str, str]:
    """Library -> version, of those by which the filters that are on decide."""
    on = [name for name in LIBRARIES if getattr(settings, name) is not None]
    on += ["language"] if settings.needs_languages else []
    return {library: importlib.metadata.version(library) for name in on for library in LIBRARIES[name]}


def write_cleaning(path: Path, cleaned: Cleaned, rates: Sequence[GroupRate], settings: CleaningSettings) -> None:
    """Write `cleaning.json`: per filter the rows seen, removed and changed, and the rates of every group."""
    filters: list[dict[str, Any]] = []
    for step in cleaned.steps:
        places: Counter[str] = Counter()
        for row in step.changed:
            places[row.what] += row.places
        filters.append(
            {
                "filter": step.filter,
                "seen": len(step.given),
                "removed": len(step.removed),
                "rate": len(step.removed) / len(step.given) if step.given else 0.0,
                "changed": len({row.id for row in step.changed}),
                "masked": dict(sorted(places.items())),
                "groups": [
                    {key: value for key, value in rate.as_dict().items() if key != "filter"}
                    for rate in rates
                    if rate.filter == step.filter
                ],
            }
        )
    told = {"flags": {"ratio": settings.balance.ratio, "alpha": settings.balance.alpha}, "filters": filters}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")


def _languages(pool: Sequence[Example], settings: CleaningSettings) -> dict[str, str]:
    if not settings.needs_languages:
        return {}
    detection = settings.detection
    return detect_languages(pool, min_letters=detection.min_letters, min_probability=detection.min_probability)


def _split(step: Step, by: str, group: Mapping[str, str]) -> Split:
    gone = {row.id for row in step.removed}
    return Split(step.filter, by, [group[name] for name in step.given], [name in gone for name in step.given])
