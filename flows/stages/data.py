"""The first two stages: read the sources, remove what must not be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow.parquet as pq

from curate import cleaning
from curate.cleaning.shards import Spread, clean_pool
from curate.cleaning.steps import CLEANING, libraries_of, models_of, write_cleaning
from curate.export.licenses import LicenseError, Standing, forbidden, is_allowed, terms
from curate.records import DataError, ExampleWriter, read_examples, write_examples, write_rejected
from curate.sources import (
    SourceReport,
    SourceSpec,
    TooManyRejectedError,
    pinned,
    read_into,
    read_reported,
    read_reports,
    write_reports,
)
from flows.config import RunConfig
from flows.log import logger
from flows.stages.guard import HELD_OUT, read_texts, scoring, without_leaked
from flows.stages.outside import external_digest
from flows.store import Accounting, StageOutput, StageStore
from flows.store import source_digest as digest_of_sources

POOL, TARGETS, REJECTED, REMOVED = "pool.parquet", "targets.parquet", "rejected.parquet", "removed.parquet"
CHANGED = "changed.parquet"
CLEAN_CODE = (
    "curate/records.py",
    "curate/local_or_hub.py",
    "curate/cleaning",
    *("train/audit.py", "train/encoding.py", "train/rendering.py"),  # batches of the filters with a model
    "train/models.py",
    "flows/stages/data.py",
)
SOURCES = "sources.json"


def ingest(config: RunConfig, store: StageStore) -> StageOutput:
    """Read every source; bad rows go to rejected.parquet with a reason, what was read of each to sources.json."""
    # Pinned before the key is made: a branch of the hub that moved is another input.
    pool_specs = [pinned(spec) for spec in config.data.pool]
    target_specs = [pinned(spec) for spec in config.data.targets]
    scored = scoring(config, store) if config.evaluation.leaks == "drop_targets" else None

    def build(folder: Path) -> Accounting:
        most = config.data.max_rejected
        try:
            with ExampleWriter(folder / POOL) as pool:
                rejected, reports = read_into(pool.write, pool_specs, "pool", max_rejected=most)
            targets = read_reported(target_specs, "targets", max_rejected=most)
        except TooManyRejectedError as error:
            write_rejected(folder / REJECTED, error.rejected)
            write_reports(folder / SOURCES, error.reports)
            raise TooManyRejectedError(
                f"{error}. All of them: {folder / REJECTED}; what was read: {folder / SOURCES}",
                error.rejected,
                error.reports,
            ) from error
        steering, leaked = without_leaked(targets.examples, read_texts(scored)) if scored else (targets.examples, [])
        if not steering:
            raise DataError("every target overlaps an item that scores; take other targets")
        rejected = [*rejected, *targets.rejected, *leaked]
        write_examples(folder / TARGETS, steering, targets=True)
        write_rejected(folder / REJECTED, rejected)
        write_reports(folder / SOURCES, [*reports, *targets.reports])
        return Accounting(
            pool.written + len(steering) + len(rejected),
            pool.written,
            targets=len(steering),
            rejected=len(rejected),
        )

    output = store.run(
        "ingest",
        build,
        params={"data": config.data.model_dump(mode="json", exclude={"cleaning", "processes"})},
        inputs={
            **{f"{k}": source_digest(spec) for k, spec in enumerate([*pool_specs, *target_specs])},
            **({"scoring": scored.key} if scored else {}),
        },
        code=["curate/records.py", "curate/sources", "flows/stages/data.py"],
    )
    reports = read_reports(output.path / SOURCES)
    for report in reports:
        logger.info("read %s", report.in_words())
    check_licenses(config, reports)
    return output


def check_licenses(config: RunConfig, reports: Sequence[SourceReport]) -> None:
    """Stop before the long work where a row's own licence forbids the export; say which licences are not known.

    Not part of the stored stage: what is allowed by name may change without reading anything again.
    """
    allowed = config.export.allow_licenses
    found = {report.path: report.licenses for report in reports if report.use == "pool"}
    if problems := forbidden(found, allowed):
        raise LicenseError("\n".join(problems))
    for path, licenses in found.items():
        for license, rows in sorted(licenses.items()):
            if terms(license).standing is Standing.UNKNOWN and not is_allowed(license, allowed):
                logger.warning(
                    "%s: the terms of the licence %r (%d rows) are not known; they are exported and marked, and "
                    "`equipoise push` asks for the licence by name",
                    path,
                    license,
                    rows,
                )


def source_digest(spec: SourceSpec) -> str:
    """`external_digest` of the source's path, with the commit of a hub dataset where it is known."""
    digest = external_digest(spec.path)
    return f"{digest}@{spec.revision}" if spec.revision else digest


def _elsewhere(config: RunConfig) -> AbstractContextManager[Spread | None]:
    """Where the shards are cleaned, if not in processes of this machine."""
    if config.execution.engine == "local":
        return nullcontext()
    from flows.cluster.cleaning import ClusterSpread
    from flows.cluster.executor import RayExecutor

    execution, code = config.execution, list(CLEAN_CODE)
    return ClusterSpread(lambda: RayExecutor(execution, execution.requests.cleaning), code, digest_of_sources(code))


def clean(config: RunConfig, store: StageStore, ingested: StageOutput) -> StageOutput:
    """Remove exact duplicates, pool rows that overlap a target or an evaluation item, and what `data.cleaning` adds."""
    settings = config.data.cleaning
    scored = scoring(config, store)

    def build(folder: Path) -> Accounting:
        references = [cleaning.Reference.of(target) for target in read_examples(ingested.path / TARGETS)]
        for item in read_texts(scored):
            name = item.item_id if item.task == HELD_OUT else f"{item.task}: {item.item_id}"
            references.append(cleaning.Reference(name, (item.text,)))
        with _elsewhere(config) as spread:
            cleaned, rates = clean_pool(
                (ingested.path / POOL).resolve(),
                (folder / POOL).resolve(),
                references,
                settings,
                processes=config.data.processes,
                spread=spread,
            )
        cleaning.write_removed(folder / REMOVED, cleaned.removed)
        cleaning.write_changed(folder / CHANGED, cleaned.changed)
        write_cleaning(folder / CLEANING, cleaned, rates, settings)
        rows = pq.read_metadata(folder / POOL).num_rows
        return Accounting(ingested.rows["rows_out"], rows, **Counter(row.filter for row in cleaned.removed))

    return store.run(
        "clean",
        build,
        params={"cleaning": settings.model_dump(mode="json"), "libraries": libraries_of(settings)},
        inputs={
            "ingest": ingested.key,
            "scoring": scored.key,
            **{f"model-{name}": external_digest(model) for name, model in models_of(settings).items()},
        },
        code=CLEAN_CODE,
    )
