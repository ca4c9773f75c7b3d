"""Evaluation on a cluster: a task is one model, its held-out losses or all its benchmark tasks.

A model is the unit because loading it and starting its engine (up to a minute) is most of the work of a short task.
What a model has finished is kept beside the stage, so a task that is run again elsewhere goes on there, as an engine
that died on one machine does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.harness import RESPONSE_FILE, run_evaluation
from eval.request import EvaluationRequest, EvaluationResponse, write_json
from flows.cluster.executor import RayExecutor
from flows.cluster.paths import everywhere
from flows.cluster.worker import check_node, compute_with, device, gpus
from flows.stages.held_out import ToMeasure, measure
from flows.store import source_digest

CODE = ["train", "curate/records.py", "eval"]


@dataclass(frozen=True)
class Measured:
    """One model's held-out losses to compute, on a node whose sources have this digest."""

    asked: ToMeasure
    code: str
    threads: int


@dataclass(frozen=True)
class Scored:
    """A request of one model, as JSON. folder: keeps its parts, log and answer."""

    request: str
    folder: Path
    python: str
    code: str


def measure_on_cluster(executor: RayExecutor, asked: Sequence[ToMeasure], on_done: Callable[[], None]) -> None:
    """`held_out.measure` of every model, by the workers."""
    code = source_digest(CODE)
    tasks = [
        Measured(
            replace(each, path=everywhere(each.path), adapter=_there(each.adapter), merged=_there(each.merged),
                    finished=each.finished.resolve()),
            code,
            executor.threads,
        )
        for each in asked
    ]  # fmt: skip
    executor.map("held-out losses", measure_here, tasks, lambda _: on_done())


def measure_here(task: Measured) -> None:
    check_node(task.asked.finished.parent, CODE, task.code)
    compute_with(task.threads)
    device()  # torch's own choice from here on
    measure(task.asked)


def score_on_cluster(
    executor: RayExecutor, request: EvaluationRequest, folder: Path, python: str, on_done: Callable[[str], None]
) -> EvaluationResponse:
    """As `eval.harness.run_evaluation`, a model at a time on the workers. on_done: told of every model that is done."""
    folder = folder.resolve()
    code = source_digest(CODE)
    tasks = []
    for number, model in enumerate(request.models):
        own = model.model_copy(
            update={"path": everywhere(model.path), "adapter": _there(model.adapter), "merged": _there(model.merged)}
        )
        update = {"models": (own,), "task_folder": _there(request.task_folder)}
        text = request.model_copy(update=update).model_dump_json()
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        tasks.append(Scored(text, folder / str(number), python, code))
    answers = executor.map("evaluation", score_here, tasks, lambda answer: on_done(_told(answer)))
    response = join([EvaluationResponse.model_validate_json(answer) for answer in answers])
    write_json(response, folder / RESPONSE_FILE)
    return response


def score_here(task: Scored) -> str:
    """The response as JSON."""
    check_node(task.folder, CODE, task.code)
    request = EvaluationRequest.model_validate_json(task.request)
    with _only(gpus()):
        return run_evaluation(request, task.folder, python=task.python).model_dump_json()


def join(responses: Sequence[EvaluationResponse]) -> EvaluationResponse:
    """The answer to a request that was asked a model at a time; a difference between the nodes is noted."""
    first = responses[0]
    notes = list(dict.fromkeys(note for each in responses for note in each.notes))
    others = sorted({each.engine.model_dump_json() for each in responses} - {first.engine.model_dump_json()})
    if others:
        told = [first.engine.model_dump_json(), *others]
        notes.append(f"models were evaluated on nodes that differ, so their scores may too: {'; '.join(told)}")
    return EvaluationResponse(
        items=tuple(item for each in responses for item in each.items),
        engine=first.engine,
        seconds={name: value for each in responses for name, value in each.seconds.items()},
        notes=tuple(notes),
        seconds_start_up=max(each.seconds_start_up for each in responses),
    )


def _told(answer: str) -> str:
    response = EvaluationResponse.model_validate_json(answer)
    return f"{', '.join(response.seconds)}: {len(response.items)} items in {sum(response.seconds.values()):.0f} s"


def _there(path: str | None) -> str | None:
    return None if path is None else everywhere(path)


@contextlib.contextmanager
def _only(given: list[int]) -> Iterator[None]:
    """The engine is a process of its own and takes the GPUs that it sees."""
    seen = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[each] if seen else str(each) for each in given)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
