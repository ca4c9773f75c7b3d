"""Evaluate the models of a request one after another and keep every item's result.

This is the body of the evaluation process. The harness's own summary (a mean and its standard error) is thrown away:
intervals over items and paired differences between models need the items. Cost: seconds per model once the engine is
imported.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from eval.engine import Engine
from eval.request import EvaluationError, EvaluationRequest, EvaluationResponse, ItemResult
from eval.tasks import resolve


def _truncated(lm: Any, arguments: list[tuple]) -> bool:
    """Whether any request of an item was longer than the context, so that the harness cut its prompt on the left.

    lm-eval keeps one position for the token that vLLM must generate; a generative request must leave room for its
    answer.
    """
    for context, rest in arguments:
        text, room = (
            (context + rest, 1) if isinstance(rest, str) else (context, rest.get("max_gen_toks", lm.max_gen_toks))
        )
        if len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) + room > lm.max_length:
            return True
    return False


def item_result(model: str, task: str, sample: dict, lm: Any) -> ItemResult:
    """One logged sample of the harness as a value of ours."""
    doc = sample["doc"]
    # a request of the log-likelihood kind answers (sum of log-probabilities, is it the greedy answer)
    is_choice = all(isinstance(response, (tuple, list)) for response in sample["filtered_resps"])
    return ItemResult(
        model=model,
        task=task,
        item_id=str(doc.get("id", sample["doc_id"])),
        capability=doc.get("capability"),
        metrics={name: float(sample[name]) for name in sample["metrics"]},
        log_likelihoods=tuple(float(response[0]) for response in sample["filtered_resps"]) if is_choice else None,
        answer=None if is_choice else str(sample["filtered_resps"][0]),
        truncated=_truncated(lm, sample["arguments"]),
    )


def _evaluate_model(lm: Any, name: str, tasks: list[dict | str], request: EvaluationRequest) -> list[ItemResult]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    only_local = all(isinstance(task, dict) for task in tasks)
    results = simple_evaluate(
        model=lm,
        tasks=copy.deepcopy(tasks),  # the harness changes the dicts that it is given
        task_manager=TaskManager(include_defaults=not only_local),
        limit=request.limit,
        apply_chat_template=bool(lm.tokenizer.chat_template),
        log_samples=True,
        bootstrap_iters=0,
        random_seed=request.seed,
        numpy_random_seed=request.seed,
        torch_random_seed=request.seed,
        fewshot_random_seed=request.seed,
    )
    items = []
    for task, samples in results["samples"].items():
        rows = [item_result(name, task, sample, lm) for sample in samples]
        ids = [row.item_id for row in rows]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise EvaluationError(
                f"task {task}: the item id {twice!r} occurs more than once in its data, so items cannot be paired"
            )
        items += rows
    return items


def evaluate(request: EvaluationRequest, say: Callable[[str], None]) -> EvaluationResponse:
    """Run a request in this process; it imports the engine, so use `eval.harness.run_evaluation` instead."""
    started = time.perf_counter()
    tasks = resolve(request.tasks, request.task_folder)
    engine = Engine(request.engine, request.seed)
    start_up = time.perf_counter() - started
    say(f"{engine.info.backend} on {engine.info.device} ready after {start_up:.0f} s")

    items: list[ItemResult] = []
    seconds: dict[str, float] = {}
    for number, model in enumerate(request.models, start=1):
        started = time.perf_counter()
        say(f"model {number} of {len(request.models)}: {model.name} ({model.path})")
        lm = engine.load(model)
        try:
            rows = _evaluate_model(lm, model.name, tasks, request)
        finally:
            del lm
            engine.free()
        seconds[model.name] = round(time.perf_counter() - started, 3)
        cut = sum(row.truncated for row in rows)
        say(
            f"{model.name}: {len(rows)} items in {seconds[model.name]:.1f} s"
            + (f"; {cut} prompts were cut" if cut else "")
        )
        items += rows
    return EvaluationResponse(
        items=tuple(items), engine=engine.info, seconds=seconds, seconds_start_up=round(start_up, 3)
    )
