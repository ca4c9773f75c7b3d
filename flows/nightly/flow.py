"""The flow `nightly`: the pipeline with the warmup that is kept and what is live beside its own arms, then the gate.

A night that fails changes nothing; a night that is refused is recorded and changes nothing else. All of the work is in
the store, so a night that is started again goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
from prefect import flow, get_run_logger

from curate.selection.inputs import INPUTS
from eval.compare import BASE, LATEST
from eval.items import read_items
from eval.tables import BITS_PER_BYTE, METRICS
from flows import artifacts
from flows.config import ConfigError, RunConfig
from flows.naming import FINETUNE, seed_names
from flows.nightly import fates, show
from flows.nightly.changes import compare_selections
from flows.nightly.files import PIN, Kept
from flows.nightly.gate import Asked, Decision, decide
from flows.nightly.night import GradientCost, Night, Outcome, PoolChange, SelectionChange, Warmth
from flows.nightly.pointer import Latest, Promotions
from flows.nightly.warmup import Pin, read_pin
from flows.pipeline import PipelineResult, pipeline_flow
from flows.stages.evaluation import HELD_OUT, ITEMS, read_results
from flows.stages.export import DATASET
from flows.stages.influence import COST
from flows.stages.outside import external_digest
from flows.store import StageOutput, StageStore


@flow(name="nightly", flow_run_name="nightly-{config.name}")
def nightly_flow(config: RunConfig) -> Night:
    """Run the pipeline on tonight's pool; the adapter goes live unless a capability got worse beyond noise."""
    store = config.open_store()
    promotions = Promotions(store, config.name)
    with promotions.held():
        promotions.recover()
        latest = promotions.latest()
        live = {name: _find(store, promotions, kept) for name, kept in latest.stages.items()} if latest else {}
        pin_file = promotions.folder / PIN
        pinned = read_pin(pin_file)
        result = pipeline_flow(
            config,
            keep_warmup=True,
            rivals={LATEST: _models(config, latest, store)} if latest else {},
            rival_datasets={LATEST: str(live[f"export-{latest.method}"].path / DATASET)} if latest else {},
        )
        number, finished = promotions.next_number(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        outcome, decision = _judge(config, latest, result)
        night = Night(
            number=number,
            name=config.name,
            finished=finished,
            run=f"{config.name}@{Path(result.run).stem.partition('-')[0]}-",
            method=config.promoted_method(),
            outcome=outcome,
            against=latest.number if latest else None,
            live=number if outcome == "promoted" else latest.number if latest else None,
            reasons=decision.reasons,
            compared=decision.compared,
            warmup=_warmth(pinned, read_pin(pin_file)),
            pool=_pool(live, result.stages),
            gradients=_cost(result.stages),
            selection=_selection(config, latest, live, result.stages),
        )
        becomes = _latest(config, number, finished, result, store) if outcome == "promoted" else None
        promotions.finish(night, becomes)
    get_run_logger().info(show.in_a_line(night))
    artifacts.night(config, show.markdown(night))
    return night


def _find(store: StageStore, promotions: Promotions, kept: Kept) -> StageOutput:
    found = store.find(kept.stage, kept.key)
    if found is None:
        raise ConfigError(
            f"what is live in {promotions.folder} needs {kept.stage}/{kept.key}, which is gone from the store "
            f"{store.name}; bring it back, or remove the link {promotions.folder / 'live'}, so that nothing is live "
            "and tonight is the first night"
        )
    return found


def _models(config: RunConfig, latest: Latest, store: StageStore) -> list[str]:
    """Folders of the live model's training runs: beside the base model of tonight as adapters, else as whole models."""
    folders = [store.root / kept.stage / kept.key for kept in latest.tuned()]
    if latest.model == external_digest(config.model):
        return [str(folder) for folder in folders]
    return [str(folder / "merged") for folder in folders]


def _judge(config: RunConfig, latest: Latest | None, result: PipelineResult) -> tuple[Outcome, Decision]:
    if latest and {kept.key for kept in latest.tuned()} == {result.stages[name].key for name in _tuned(config)}:
        same = "the adapter is the one that is live: nothing that it was made of has changed"
        return "unchanged", Decision(False, (same,))
    settings = config.promotion
    controls = [LATEST] if latest else [BASE] if settings.first == "base" else []
    if settings.never_below_base and BASE not in controls:
        controls.append(BASE)
    evaluated = result.stages["evaluate"].path
    decision = decide(
        read_results(evaluated),
        config.promoted_method(),
        controls,
        asked=_asked(config, evaluated),
        require=settings.require,
    )
    return "promoted" if decision.promote else "refused", decision


def _asked(config: RunConfig, evaluated: Path) -> set[Asked]:
    """What the configuration asks to be measured, whatever became of it: the capabilities of all items."""
    asked = {(BITS_PER_BYTE.name, item.capability) for item in read_items(config.evaluation.items)}
    for row in pq.read_table(evaluated / ITEMS, columns=["task", "metric", "capability"]).to_pylist():
        if row["task"] != HELD_OUT:
            asked.add((METRICS[row["metric"]].name, row["capability"]))
    return asked


def _tuned(config: RunConfig) -> list[str]:
    """The pipeline's names of the candidate's training runs."""
    return seed_names(FINETUNE + config.promoted_method(), config.training_seeds())


def _latest(config: RunConfig, number: int, finished: str, result: PipelineResult, store: StageStore) -> Latest:
    method = config.promoted_method()
    names = ["ingest", "clean", "encode", _scores(method), f"select-{method}", f"export-{method}", *_tuned(config)]
    stages = {name: result.stages[name] for name in [*names, "evaluate"]}
    return Latest(
        name=config.name,
        number=number,
        promoted=finished,
        run=str(Path(result.run).relative_to(store.root)) if result.run else "",
        method=method,
        seeds=tuple(config.training_seeds()),
        model=external_digest(config.model),
        stages={name: Kept(stage=output.stage, key=output.key) for name, output in stages.items()},
    )


def _scores(method: str) -> str:
    """The pipeline's name of the stage that scored the rows for a method."""
    kind = INPUTS[method]
    return "attribution" if kind == "influence" else f"similarity-{kind}"


def _warmth(before: Pin | None, after: Pin | None) -> Warmth:
    assert after is not None  # the curation has pinned one
    kept = before is not None and before.warmup == after.warmup
    return Warmth(kept=kept, why="it still fits" if kept else after.why)


def _pool(live: Mapping[str, StageOutput], tonight: Mapping[str, StageOutput]) -> PoolChange:
    now = fates.pool_ids(tonight["ingest"].path)
    before = fates.pool_ids(live["ingest"].path) if live else set()
    return PoolChange(rows=len(now), new=len(now - before), vanished=len(before - now))


def _cost(tonight: Mapping[str, StageOutput]) -> GradientCost:
    rows, output = tonight["encode"].rows["rows_out"], tonight["gradients"]
    told = json.loads((output.path / COST).read_text(encoding="utf-8"))["rows_found"]
    found = tuple(rows if output.cached else each for each in told)
    return GradientCost(computed=tuple(rows - each for each in found), found=found)


def _selection(
    config: RunConfig,
    latest: Latest | None,
    live: Mapping[str, StageOutput],
    tonight: Mapping[str, StageOutput],
) -> SelectionChange:
    """Tonight's selection beside the live one."""
    method = config.promoted_method()
    selected = tonight[f"select-{method}"].path
    now = fates.chosen(selected)
    if not latest:
        return compare_selections({}, now, fates_now={}, fates_before={})
    before = fates.chosen(live[f"select-{latest.method}"].path)
    gone, come = before.keys() - now.keys(), now.keys() - before.keys()
    fates_now = fates.fates(_folders(tonight, method), gone)
    outranked = sorted(name for name in gone if fates_now[name].kind == "scored")
    return compare_selections(
        before,
        now,
        fates_now=fates_now,
        fates_before=fates.fates(_folders(live, latest.method), come),
        gaps=fates.gaps(method, tonight[_scores(method)].path, selected, outranked),
        rewritten=fates.rewritten(live["clean"].path, tonight["clean"].path, before.keys() & now.keys()),
    )


def _folders(stages: Mapping[str, StageOutput], method: str) -> dict[str, Path]:
    """What `fates` reads of a night."""
    names = {"ingest": "ingest", "clean": "clean", "encode": "encode", "scores": _scores(method)}
    names |= {"gradients": "gradients"} if "gradients" in stages else {}
    return {name: stages[stage].path for name, stage in names.items()}
