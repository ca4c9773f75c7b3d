"""Evaluate the models of a request one after another and keep every item's result.

This is the body of the evaluation process. The harness's own summary (a mean and its standard error) is thrown away:
intervals over items and paired differences between models need the items. Every (model, task) is written down as it is
finished (`eval.parts`). Whatever can be known to be wrong is found before the first item runs: programs without a
sandbox, adapters of another model, empty tasks, tasks whose metrics no table knows, prompts longer than the context
(of a model with another tokenizer: before its own first item). Cost: seconds per model once the
engine is imported.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.adapters import check_fit
from eval.engine import Engine
from eval.errors import EvaluationError
from eval.parts import Part, Parts
from eval.request import EvaluationRequest, EvaluationResponse, ItemResult, ModelToEvaluate
from eval.scorers import SCORERS
from eval.tables import METRICS
from eval.tasks import LoadedTask, check_code, load, resolve
from train.process import progress_line


def evaluate(request: EvaluationRequest, folder: Path, say: Callable[[str], None]) -> EvaluationResponse:
    """Run a request in this process; it imports the engine, so use `eval.harness.run_evaluation` instead.

    folder: keeps the finished parts, and gives back those of an earlier, killed process.
    """
    started = time.perf_counter()
    specs = resolve(request.tasks, request.task_folder)
    check_code(specs, request.run_code)
    # a server holds its own weights, so nothing here can tell whether an adapter of its fits
    own = [model for model in request.models if model.adapter is not None and request.engine.backend != "server"]
    notes = [note for model in own if (note := check_fit(model, request.engine.trust_remote_code))]
    tasks = load(specs, request.seed)
    _check_measured(tasks)
    parts = Parts(folder, request)
    found = {
        (model.name, task.name): part
        for model in request.models
        for task in tasks
        if (part := parts.find(model, task)) is not None
    }
    engine = Engine(request.engine, request.seed)
    start_up = time.perf_counter() - started
    say(f"{engine.info.backend} on {engine.info.device} ready after {start_up:.0f} s")
    if found:
        say(f"{len(found)} of {len(request.models) * len(tasks)} results are there from an earlier attempt")

    finished = [m.name for m in request.models if all((m.name, task.name) in found for task in tasks)]
    seconds = {m.name: sum(part.seconds for (name, _), part in found.items() if name == m.name) for m in request.models}
    checked: set[tuple[str, int]] = set()
    cut_answers: dict[str, str] = {}
    clock = time.perf_counter()
    for model, lm in engine.run(request.models, any(task.scores_prompts for task in tasks), finished):
        say(f"model {model.name} ({model.adapter or model.path})")
        if (model.path, lm.max_length) not in checked:  # another model may have another tokenizer
            cut_answers |= _cut_answers(lm, tasks) if request.engine.overflow == "cut" else {}
            _check_fit_in_context(lm, tasks, request)
            checked.add((model.path, lm.max_length))
        for task in tasks:
            if (model.name, task.name) in found:
                continue
            begun = time.perf_counter()
            parts.begin(model, task)
            items = _evaluate_task(lm, model, task, request)
            told = [cut_answers[task.name]] if task.name in cut_answers else []
            if cut := sum(row.truncated for row in items):
                told.append(f"{task.name}: {cut} of {len(items)} prompts of {model.name} were cut on the left")
            part = Part(
                model=model.name,
                task=task.name,
                items=tuple(items),
                seconds=round(time.perf_counter() - begun, 3),
                notes=tuple(told),
            )
            parts.write(model, task, part)
            found[(model.name, task.name)] = part
            say("; ".join([f"{model.name}, {task.name}: {len(items)} items in {part.seconds:.1f} s", *told]))
            say(progress_line(len(found), len(request.models) * len(tasks), "models on tasks"))
        del lm
        seconds[model.name] += time.perf_counter() - clock
        clock = time.perf_counter()
    answered = [found[(m.name, task.name)] for m in request.models for task in tasks]
    return EvaluationResponse(
        items=tuple(item for part in answered for item in part.items),
        engine=engine.info,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        notes=tuple(dict.fromkeys([*notes, *engine.notes, *(note for part in answered for note in part.notes)])),
        seconds_start_up=round(start_up, 3),
    )


def _check_measured(tasks: Sequence[LoadedTask]) -> None:
    """Refuse tasks that measure nothing a table compares. Raises `EvaluationError` with what they do measure."""
    for task in tasks:
        has = SCORERS[task.spec.scorer].metrics if task.spec.scorer else tuple(task.task.aggregation())
        if not METRICS.keys() & set(has):
            raise EvaluationError(
                f"tasks: {task.name} measures {', '.join(has) or 'nothing'}; tables know {', '.join(METRICS)}: leave "
                "it out, or give it a metric or a scorer of these"
            )


def _build(task: LoadedTask, lm: Any, limit: int | None) -> None:
    """The requests of a task, with the chat template of the model at hand."""
    templated = bool(lm.tokenizer.chat_template)
    task.task.build_all_requests(
        limit=limit,
        apply_chat_template=templated,
        fewshot_as_multiturn=templated,
        chat_template=lm.apply_chat_template if templated else None,
        tokenizer_name=lm.tokenizer_name if templated else "",
    )


def _check_fit_in_context(lm: Any, tasks: Sequence[LoadedTask], request: EvaluationRequest) -> None:
    """Every prompt is measured before the first one runs. Raises `EvaluationError` with each task's figures."""
    if request.engine.overflow == "cut":
        return
    told = []
    for task in tasks:
        _build(task, lm, request.limit)
        lengths: dict[int, int] = {}
        for instance in task.task.instances:
            lengths[instance.doc_id] = max(lengths.get(instance.doc_id, 0), _tokens(lm, instance.args))
        over = [n for n in lengths.values() if n > lm.max_length]
        if over:
            told.append(f"{task.name}: {len(over)} of {len(lengths)} items, up to {max(over)} tokens")
    if told:
        raise EvaluationError(
            f"prompt and answer do not fit into the context of {lm.max_length} tokens ({'; '.join(told)}): raise "
            "max_model_len, choose other tasks, or set overflow: cut to cut prompts on the left"
        )


def _cut_answers(lm: Any, tasks: Sequence[LoadedTask]) -> dict[str, str]:
    """Room for an answer is at most half of the context, or no prompt would be left; task → note on what was
    shortened."""
    half, told = lm.max_length // 2, {}
    for task in tasks:
        if task.scores_prompts:
            continue
        asked = (task.task.config.generation_kwargs or {}).get("max_gen_toks", lm.max_gen_toks)
        if asked > half:
            task.task.set_config(key="generation_kwargs", value={"max_gen_toks": half}, update=True)
            told[task.name] = f"{task.name}: answers of at most {half} tokens instead of {asked}, half of the context"
    return told


def _tokens(lm: Any, arguments: tuple) -> int:
    """Positions that a request takes: the text and the one token that the engine must generate, or the text and room
    for its answer."""
    context, rest = arguments
    text, room = (context + rest, 1) if isinstance(rest, str) else (context, rest.get("max_gen_toks", lm.max_gen_toks))
    return len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) + room


def _evaluate_task(lm: Any, model: ModelToEvaluate, task: LoadedTask, request: EvaluationRequest) -> list[ItemResult]:
    from lm_eval.evaluator import evaluate as run_harness

    random.seed(request.seed)
    np.random.seed(request.seed)  # the harness draws from it
    templated = bool(lm.tokenizer.chat_template)
    results: Any = run_harness(
        lm=lm,
        task_dict={"tasks": {task.name: task.task}},
        limit=request.limit,
        apply_chat_template=templated,
        fewshot_as_multiturn=templated,
        log_samples=True,
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,  # only ours get here, and theirs run in the sandbox
    )
    samples = results["samples"][task.name]
    judged: list[dict[str, float]] = [{} for _ in samples]
    if task.spec.scorer is not None:
        answers = [str(sample["filtered_resps"][0]) for sample in samples]
        docs = [sample["doc"] for sample in samples]
        judged = SCORERS[task.spec.scorer].score_all(docs, answers, request.sandbox)
    return item_results(model.name, task, samples, judged, lm)


def item_results(
    model: str, task: LoadedTask, samples: Sequence[dict], judged: Sequence[dict[str, float]], lm: Any
) -> list[ItemResult]:
    """The harness's logged samples as values of ours: one per item, its metrics under all of the task's filters.

    The first filter's metrics keep their names, those of the others get the filter's behind a comma. judged: what a
    scorer of ours made of each sample, empty without one. Raises `EvaluationError` when two items share an id.
    """
    items: dict[int, ItemResult] = {}
    ids: set[str] = set()
    for sample, own in zip(samples, judged, strict=True):
        metrics = own or {name: _value(sample[name]) for name in sample["metrics"]}
        if sample["doc_id"] in items:  # the same answer under another filter
            first = items[sample["doc_id"]]
            more = {f"{name},{sample['filter']}": value for name, value in metrics.items()}
            items[sample["doc_id"]] = first.model_copy(update={"metrics": first.metrics | more})
            continue
        item = _item_result(model, task, sample, metrics, lm)
        if item.item_id in ids:
            raise EvaluationError(
                f"task {task.name}: the item id {item.item_id!r} occurs more than once in its data, so items cannot be "
                "paired"
            )
        ids.add(item.item_id)
        items[sample["doc_id"]] = item
    return list(items.values())


def _item_result(model: str, task: LoadedTask, sample: dict, metrics: dict[str, float], lm: Any) -> ItemResult:
    doc = sample["doc"]
    # a request of the log-likelihood kind answers (sum of log-probabilities, is it the greedy answer)
    is_choice = all(isinstance(response, (tuple, list)) for response in sample["filtered_resps"])
    item_id = str(doc.get("id", sample["doc_id"]))
    likelihoods = tuple(float(response[0]) for response in sample["filtered_resps"]) if is_choice else None
    if not all(map(math.isfinite, (*metrics.values(), *(likelihoods or ())))):
        raise EvaluationError(  # the largest of NaNs is the first, which would score
            f"model {model!r}, task {task.name}, item {item_id!r}: a log-likelihood or metric is NaN or infinite; the "
            "model's weights are broken, or dtype is too narrow for them (try float32)"
        )
    return ItemResult(
        model=model,
        task=task.name,
        item_id=item_id,
        capability=doc.get("capability") or task.spec.capability,
        prompt=str(task.task.doc_to_text(doc)),
        metrics=metrics,
        log_likelihoods=likelihoods,
        answer=None if is_choice else str(sample["filtered_resps"][0]),
        truncated=any(_tokens(lm, arguments) > lm.max_length for arguments in sample["arguments"]),
    )


def _value(value: Any) -> float:
    """A metric of one item as a number; some of the harness's are a list, one value per part of the item."""
    return float(np.mean(value))
