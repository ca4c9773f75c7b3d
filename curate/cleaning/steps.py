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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.cleaning.balance import GroupRate, Split, group_rates
from curate.cleaning.contract import Cleaned, Editor, Filter, Reference, Steps, clean
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
    "language": ("py3langid",),
    "personal_data": ("phonenumbers", "detect-secrets"),
    "toxicity": ("transformers",),
    "semantic_duplicates": ("transformers", "faiss-cpu"),
}


@dataclass(frozen=True)
class Planned:
    """One filter of a run, made when its turn comes, so that two models are never in memory together.

    by_pool: it judges rows by each other (`PoolFilter`); has_model: it is slow to make and wants the machine alone.
    """

    name: str
    make: Callable[[], Filter | Editor]
    by_pool: bool = False
    has_model: bool = False


def run_filters(
    pool: Sequence[Example], references: Sequence[Reference], settings: CleaningSettings
) -> tuple[Cleaned, list[GroupRate]]:
    """Clean a pool that is in memory as the settings say, and count who paid for it; `shards.clean_pool` does the same
    to a file of any size.

    references: what the pool must not contain. Raises `DataError` and `train.models.ModelError` for a model that does
    not fit.
    """
    languages = languages_of(pool, settings) if settings.needs_languages else {}
    groups = grouping(languages)
    cleaned = clean(pool, (step.make() for step in planned(settings, references, languages)))
    left = {example.id: example for example in pool}
    splits = []
    for step in cleaned.steps:
        gone = [left[row.id] for row in step.removed]
        for by in settings.groupings:
            seen, removed = (Counter(map(groups[by], rows)) for rows in (left.values(), gone))
            splits.append(Split(step.filter, by, seen, removed))
        for row in gone:
            del left[row.id]
    return cleaned, group_rates(splits, ratio=settings.balance.ratio, alpha=settings.balance.alpha)


def grouping(languages: Mapping[str, str]) -> dict[Grouping, Callable[[Example], str]]:
    """What group a row is in. languages: of the rows that will be asked for, by id."""
    return {
        "source": lambda example: example.source,
        "domain": lambda example: example.domain,
        "language": lambda example: languages[example.id],
    }


def planned(settings: CleaningSettings, references: Sequence[Reference], languages: Mapping[str, str]) -> list[Planned]:
    """The filters that are on, in order."""
    groups = grouping(languages)

    def equal(by: Grouping | None) -> Equal | None:
        return None if by is None else Equal(by, groups[by])

    steps = [
        Planned("exact_duplicates", ExactDuplicates, by_pool=True),
        Planned("target_overlap", lambda: TargetOverlap(references)),
        Planned("word_run_overlap", lambda: WordRunOverlap(references)),
    ]
    if near := settings.near_match:
        steps.append(Planned("near_match", lambda: NearMatch(references, near.threshold)))
    if language := settings.language:
        steps.append(Planned("language", lambda: Language(language.wanted, languages)))
    if quality := settings.quality:
        together = quality.equalise is not None
        steps.append(Planned("quality", lambda: Quality(quality, equal(quality.equalise)), by_pool=together))
    if personal := settings.personal_data:
        mask = PersonalDataMask if personal.action == "mask" else PersonalDataDrop
        steps.append(Planned("personal_data", lambda: mask(personal)))
    if toxicity := settings.toxicity:
        from curate.cleaning.toxicity import Toxicity

        together = toxicity.equalise is not None
        steps.append(Planned("toxicity", lambda: Toxicity(toxicity, equal(toxicity.equalise)), together, True))
    if likeness := settings.near_duplicates:
        steps.append(Planned("near_duplicates", lambda: NearDuplicates(likeness.threshold), by_pool=True))
    if semantic := settings.semantic_duplicates:
        from curate.cleaning.semantic_duplicates import SemanticDuplicates

        steps.append(
            Planned("semantic_duplicates", lambda: SemanticDuplicates(semantic, equal(semantic.equalise)), True, True)
        )
    return steps


def models_of(settings: CleaningSettings) -> dict[str, str]:
    """Filter -> folder or hub id of its model, of the filters that are on."""
    on = {"toxicity": settings.toxicity, "semantic_duplicates": settings.semantic_duplicates}
    return {name: step.model for name, step in on.items() if step is not None}


def libraries_of(settings: CleaningSettings) -> dict[str, str]:
    """Library -> version, of those by which the filters that are on decide."""
    on = [name for name in LIBRARIES if getattr(settings, name) is not None]
    on += ["language"] if settings.needs_languages else []
    return {library: importlib.metadata.version(library) for name in on for library in LIBRARIES[name]}


def write_cleaning(path: Path, cleaned: Steps, rates: Sequence[GroupRate], settings: CleaningSettings) -> None:
    """Write `cleaning.json`: per filter the rows seen, removed and changed, and the rates of every group."""
    filters: list[dict[str, Any]] = []
    for step in cleaned.steps:
        places: Counter[str] = Counter()
        for row in step.changed:
            places[row.what] += row.places
        filters.append(
            {
                "filter": step.filter,
                "seen": step.seen,
                "removed": len(step.removed),
                "rate": len(step.removed) / step.seen if step.seen else 0.0,
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


def languages_of(pool: Sequence[Example], settings: CleaningSettings) -> dict[str, str]:
    """Language of every row by id."""
    detection = settings.detection
    return detect_languages(pool, min_letters=detection.min_letters, min_probability=detection.min_probability)
