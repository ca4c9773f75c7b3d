"""The leakage guard before any work: what steers and what scores must not be the same.

A target that is, or nearly is, a scoring item would tune the selection on the test. The pool is cleaned of both
(`clean`), and the evaluation looks up every item once more, with what was trained on; here targets and items are
compared before the first gradient, so that a run whose result would mean nothing costs seconds. By
`evaluation.leaks` the run stops, steers without these targets, or scores without these items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import Example, Rejected, read_examples
from curate.sources import read_targets
from curate.sources.opening import is_pattern, is_there
from eval import leakage
from eval.items import read_items
from eval.leakage import KnownText, Leak, ScoredText
from eval.prompts import local_prompts
from eval.tasks import folder_files
from flows.config import ConfigError, RunConfig
from flows.log import logger
from flows.stages.outside import external_digest
from flows.store import Accounting, StageOutput, StageStore

LEAKS, TEXTS, NOT_READ = "leaks.parquet", "texts.parquet", "not_read.json"
TARGETS = "targets.parquet"
HELD_OUT = "held-out"  # what the items of `evaluation.items` go by
SHOWN = 10
REMEDY = (
    "Take these targets or items out, or set evaluation.leaks to drop_targets (steer without them) or drop_items "
    "(score without them)"
)
GUARD_CODE = (
    *("curate/records.py", "curate/cleaning", "eval/items.py", "eval/leakage.py", "eval/prompts.py", "eval/tasks.py"),
    "flows/stages/guard.py",
)
_TEXT_SCHEMA = pa.schema([(name, pa.string()) for name in ("task", "item_id", "text")])


def scoring_texts(config: RunConfig) -> tuple[list[ScoredText], list[str]]:
    """(what all items show that can be read now, the tasks of which that is not known before they are scored)."""
    settings = config.evaluation
    texts = [ScoredText(HELD_OUT, item.id, item.prompt) for item in read_items(settings.items)]
    tasks, others = local_prompts(settings.tasks, settings.task_folder, limit=settings.limit, seed=config.seed)
    return [*texts, *tasks], others


def scoring(config: RunConfig, store: StageStore) -> StageOutput:
    """`scoring_texts` as a stage, so that the guard, the cleaning and a second run read them once."""
    settings = config.evaluation

    def build(folder: Path) -> None:
        texts, others = scoring_texts(config)
        rows = [{"task": each.task, "item_id": each.item_id, "text": each.text} for each in texts]
        pq.write_table(pa.Table.from_pylist(rows, schema=_TEXT_SCHEMA), folder / TEXTS)
        (folder / NOT_READ).write_text(json.dumps(others))

    inputs = {f"items-{k}": external_digest(str(path)) for k, path in enumerate(settings.items)}
    if settings.tasks and settings.task_folder:
        data = folder_files(settings.tasks, settings.task_folder)
        inputs |= {"tasks": external_digest(str(settings.task_folder))}
        inputs |= {f"task-data-{k}": external_digest(str(path)) for k, path in enumerate(data)}
    return store.run(
        "scoring",
        build,
        params={"tasks": settings.tasks, "limit": settings.limit, "seed": config.seed},
        inputs=inputs,
        code=GUARD_CODE,
    )


def read_texts(scored: StageOutput) -> list[ScoredText]:
    return [ScoredText(**row) for row in pq.read_table(scored.path / TEXTS).to_pylist()]


def target_leaks(targets: Iterable[Example], texts: Sequence[ScoredText]) -> list[Leak]:
    """Every target of which a user's turn is, shares 13 words with, or nearly is an item, with the item it matches."""
    asked = [ScoredText("", target.id, turn) for target in targets for turn in target.user_turns()]
    found = leakage.find_leaks(asked, [KnownText(each.task, each.item_id, each.text) for each in texts])
    return [
        Leak(leak.kind, leak.matched_id, "target", leak.item_id, leak.test, leak.matched_text)
        for leak in {leak.item_id: leak for leak in reversed(found)}.values()
    ][::-1]


def without_leaked(targets: Sequence[Example], texts: Sequence[ScoredText]) -> tuple[list[Example], list[Rejected]]:
    """(the targets that may steer, the others with what they match)."""
    leaks = {leak.matched_id: leak for leak in target_leaks(targets, texts)}
    rejected = [
        Rejected(each.origin, each.id, f"overlaps what scores: {_in_words(leaks[each.id])}", each.text()[:200])
        for each in targets
        if each.id in leaks
    ]
    return [each for each in targets if each.id not in leaks], rejected


def told_before(config: RunConfig) -> str:
    """What the guard finds before a run, in a line for `validate`. Raises `ConfigError` where the run would stop."""
    if remote := [spec.path for spec in config.data.targets if not (is_there(spec.path) or is_pattern(spec.path))]:
        return f"leakage: not compared before the run, which reads {', '.join(remote)} first"
    targets, _ = read_targets(config.data.targets, max_rejected=1.0)
    texts, others = scoring_texts(config)
    leaks = target_leaks(targets, texts)
    check(config, leaks, len(targets))
    later = f"; the items of {', '.join(others)} are compared when they are scored" if others else ""
    found = f"{len(leaks)} overlap, {_done(config)}" if leaks else "none overlaps"
    return f"leakage: {len(targets):,} targets beside {len(texts):,} scoring texts, {found}{later}"


def check(config: RunConfig, leaks: Sequence[Leak], targets: int, where: Path | None = None) -> None:
    """Raises `ConfigError` with the pairs when there are leaks and the run is to stop for them."""
    if not leaks or config.evaluation.leaks != "stop":
        return
    lines = [f"  - target {leak.matched_id}: {_in_words(leak)}" for leak in leaks[:SHOWN]]
    lines += [f"  - and {len(leaks) - SHOWN} more" for _ in leaks[SHOWN : SHOWN + 1]]
    listed = f" (all: {where})" if where else ""
    raise ConfigError(
        f"{len(leaks)} of {targets} targets overlap what scores, so that the selection would be tuned on the test"
        f"{listed}:\n" + "\n".join(lines) + f"\n{REMEDY}"
    )


def guard(config: RunConfig, store: StageStore, ingested: StageOutput) -> StageOutput:
    """Compare targets and scoring items before any work; the pairs are in `leaks.parquet`."""
    scored = scoring(config, store)

    def build(folder: Path) -> Accounting:
        targets = read_examples(ingested.path / TARGETS)
        leaks = target_leaks(targets, read_texts(scored))
        leakage.write_leaks(folder / LEAKS, leaks)
        check(config, leaks, len(targets), folder / LEAKS)
        return Accounting(len(targets), len(targets))

    output = store.run(
        "guard",
        build,
        params={"leaks": config.evaluation.leaks},
        inputs={"ingest": ingested.key, "scoring": scored.key},
        code=GUARD_CODE,
    )
    if leaks := leakage.read_leaks(output.path / LEAKS):
        logger.warning("%d targets overlap scoring items, %s: %s", len(leaks), _done(config), output.path / LEAKS)
    if others := json.loads((scored.path / NOT_READ).read_text()):
        logger.info("leakage guard: the items of %s are compared when they are scored", ", ".join(others))
    return output


def _done(config: RunConfig) -> str:
    return {"drop_targets": "which do not steer", "drop_items": "which do not score", "stop": "so the run stops"}[
        config.evaluation.leaks
    ]


def _in_words(leak: Leak) -> str:
    return f"{leak.task} item {leak.item_id}, {leak.test}: {' '.join(leak.matched_text.split())!r}"
