"""What the items of tasks show the model, read before anything runs: so that a leak is found before it costs a day.

Only tasks whose data lies on this machine are read, by the harness itself, so that a text is what the evaluation will
use; the others are named, and their items are looked up when they are scored (`leakage`). Seconds, most of them the
harness's imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.leakage import ScoredText
from eval.tasks import TaskSpec, load, local_files, resolve


def local_prompts(
    names: Sequence[str], folder: str | Path | None, *, limit: int | None = None, seed: int = 0
) -> tuple[list[ScoredText], list[str]]:
    """(the texts of all items of tasks with local data, the names of the other tasks).

    limit: first items of every task. Raises `EvaluationError` for a task that is none or cannot be loaded.
    """
    specs = resolve(names, folder) if names else []
    here = [spec for spec in specs if is_local(spec)]
    texts = []
    for loaded in load(here, seed) if here else []:
        for number, doc in enumerate(loaded.task.eval_docs):
            if limit is None or number < limit:
                item = str(doc.get("id", number))
                texts.append(ScoredText(loaded.name, item, str(loaded.task.doc_to_text(doc))))
    return texts, [spec.name for spec in specs if not is_local(spec)]


def is_local(spec: TaskSpec) -> bool:
    """Whether the task's data can be read without a network."""
    if not isinstance(spec.source, dict):
        return False
    files = (spec.source.get("dataset_kwargs") or {}).get("data_files")
    return bool(local_files(spec)) and "://" not in str(files)
