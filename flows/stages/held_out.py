"""Held-out losses in the evaluation stage: measured once per training run, in units that may be compared.

A whole model of a stranger brings its own tokenizer, so every model encodes the items itself; bits per byte are
comparable all the same, and an item that one of them cannot encode counts for none. What is finished is written down
model by model, so that a killed stage goes on at the next.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.heldout import HeldOutError, HeldOutRow, ItemLoss, encode_held_out, held_out_losses
from eval.items import EvaluationItem
from eval.results import scores_of
from eval.statistics import TaskScores
from eval.tables import BITS_PER_BYTE, BITS_PER_TOKEN, Metric
from flows.config import RunConfig
from flows.process import show
from train.models import load_adapter, load_base, load_tokenizer
from train.process import progress_line

if TYPE_CHECKING:
    from flows.stages.evaluation import EvaluatedModel

HELD_OUT = "held_out"  # the held-out losses' task, and the folder of what is finished of them


@dataclass(frozen=True)
class ToMeasure:
    """One run whose losses are missing. path, adapter, merged: as of its `EvaluatedModel`; finished: where they go."""

    run_name: str
    path: str
    adapter: str | None
    merged: str | None
    rows: list[HeldOutRow]
    pad_id: int
    finished: Path


Spread = Callable[[Sequence[ToMeasure], Callable[[], None]], None]  # measure all, and tell after each


def measure(asked: ToMeasure) -> None:
    """Compute one run's losses and write them down. Raises `HeldOutError` naming the model."""
    try:
        found = held_out_losses(_loaded(asked), asked.rows, asked.pad_id)
    except HeldOutError as error:
        raise HeldOutError(f"model {asked.run_name} ({asked.adapter or asked.path}): {error}") from error
    partial = asked.finished.with_suffix(f".{uuid.uuid4().hex}.partial")
    partial.write_text(json.dumps([vars(loss) for loss in found]))
    partial.replace(asked.finished)


def _one_by_one(asked: Sequence[ToMeasure], on_done: Callable[[], None]) -> None:
    for each in asked:
        measure(each)
        on_done()


def held_out(
    config: RunConfig,
    models: Sequence[EvaluatedModel],
    items: Sequence[EvaluationItem],
    finished: Path,
    spread: Spread = _one_by_one,
) -> tuple[dict[str, list[ItemLoss]], dict[str, str]]:
    """Losses of every run's items, as its own tokenizer writes them; each run's are written down as they are finished.
    Also the items that one of the tokenizers cannot encode, with the reason: they count for no model."""
    asked = [{"id": item.id, "capability": item.capability, "messages": item.messages()} for item in items]
    encoded = {}
    skipped: dict[str, str] = {}
    for own in dict.fromkeys(model.path for model in models):
        tokenizer = load_tokenizer(own)
        rows, out = encode_held_out(asked, tokenizer, config.max_length)
        encoded[own] = rows, tokenizer.pad_token_id
        skipped = {**dict(out), **skipped}
    finished.mkdir(exist_ok=True)
    paths = {model.run_name: finished / f"{number}.json" for number, model in enumerate(models)}
    asked_of = []
    for model in models:
        if not paths[model.run_name].exists():
            rows, pad_id = encoded[model.path]
            left = [row for row in rows if row.id not in skipped]
            asked_of.append(
                ToMeasure(model.run_name, model.path, model.adapter, model.merged, left, pad_id, paths[model.run_name])
            )
    done = itertools.count(len(models) - len(asked_of) + 1)
    spread(asked_of, lambda: show(progress_line(next(done), len(models), "held-out losses of models")))
    return {name: [ItemLoss(**loss) for loss in json.loads(path.read_text())] for name, path in paths.items()}, skipped


def comparable_units(losses: Mapping[str, Sequence[ItemLoss]]) -> tuple[dict[str, Metric], list[str]]:
    """In which units losses may be compared: tokens of another tokenizer are other units. The notes say so."""
    if len({tuple((loss.id, loss.tokens) for loss in each) for each in losses.values()}) == 1:
        return {"bits_per_byte": BITS_PER_BYTE, "bits_per_token": BITS_PER_TOKEN}, []
    return {"bits_per_byte": BITS_PER_BYTE}, ["Bits per token are not compared: the models have different tokenizers"]


def skipped_note(skipped: Mapping[str, str], asked: int) -> list[str]:
    """How many items count for no model, and why the first does not."""
    return [
        f"{len(skipped)} of {asked} held-out items count for no model, for one {name!r}: {reason}"
        for name, reason in list(skipped.items())[:1]
    ]


def _loaded(model: ToMeasure) -> Any:
    if model.merged or not model.adapter:
        return load_base(model.merged or model.path)
    return load_adapter(load_base(model.path), Path(model.adapter))


def held_out_scores(
    models: Sequence[EvaluatedModel],
    losses: Mapping[str, Sequence[ItemLoss]],
    leaked: set[str],
    units: Mapping[str, Metric],
) -> list[tuple[Metric, dict[str, dict[str, TaskScores]]]]:
    """Per unit: model -> capability -> scores; a capability of which no interval can be made is left out."""
    scored = []
    for unit, metric in units.items():
        values = (
            (model.name, model.run, loss.capability, loss.capability, loss.id, getattr(loss, unit))
            for model in models
            for loss in losses[model.run_name]
            if loss.id not in leaked
        )
        scored.append((metric, scores_of(values)))
    return [(metric, scores) for metric, scores in scored if any(scores.values())]


def held_out_records(
    models: Sequence[EvaluatedModel],
    losses: Mapping[str, Sequence[ItemLoss]],
    leaked: set[str],
    units: Iterable[str],
) -> list[dict]:
    return [
        {
            "model": model.name,
            "run": model.run,
            "task": HELD_OUT,
            "capability": loss.capability,
            "id": loss.id,
            "metric": unit,
            "value": getattr(loss, unit),
            "excluded": loss.id in leaked,
        }
        for model in models
        for loss in losses[model.run_name]
        for unit in units
    ]
