"""Task definitions: lm-evaluation-harness YAML files whose data paths are relative to the file itself.

The harness resolves a relative data path against the current folder, so a task would work from one place only. Here a
YAML file is read with the harness's own loader and its `dataset_kwargs.data_files` are made absolute before the harness
sees it. Names that the folder does not know are looked up among the harness's built-in tasks (these may need the
network).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.request import EvaluationError


def _absolute(files: Any, folder: Path, origin: Path) -> Any:
    """Data files with local relative paths made absolute; URLs stay."""
    if isinstance(files, dict):
        return {split: _absolute(value, folder, origin) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, folder, origin) for value in files]
    if "://" in files:
        return files
    path = (folder / files).resolve()
    if not any(c in files for c in "*?[") and not path.is_file():
        raise EvaluationError(f"{origin}: dataset_kwargs.data_files: no such file: {path}")
    return str(path)


def read_folder(folder: str | Path) -> dict[str, dict]:
    """Every task of a folder by name, ready for the harness. Raises `EvaluationError` on a file without a task."""
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks: dict[str, dict] = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        config = load_yaml(path)
        name = config.get("task")
        if not isinstance(name, str):
            raise EvaluationError(f"{path}: no `task:` name")
        if name in tasks:
            raise EvaluationError(f"{path}: the task name {name!r} is used by another file of the folder")
        arguments = config.get("dataset_kwargs") or {}
        if "data_files" in arguments:
            config["dataset_kwargs"] = {
                **arguments,
                "data_files": _absolute(arguments["data_files"], path.parent, path),
            }
        tasks[name] = config
    if not tasks:
        raise EvaluationError(f"{folder}: no *.yaml task file")
    return tasks


def _tags(config: dict) -> list[str]:
    tag = config.get("tag") or []
    return [tag] if isinstance(tag, str) else list(tag)


def resolve(names: Sequence[str], folder: str | Path | None) -> list[dict | str]:
    """Task names and tags → the harness's specifications: a dict for a task of the folder, a name for a built-in one.

    Each task comes once, in the order first asked for. Raises `EvaluationError` for a name that is neither, with the
    nearest one.
    """
    local = read_folder(folder) if folder is not None else {}
    chosen: dict[str, dict | str] = {}
    strangers = []
    for name in names:
        tagged = [task for task, config in local.items() if name in _tags(config)]
        if name not in local and not tagged:
            strangers.append(name)
            chosen[name] = name
        for task in [name] if name in local else tagged:
            chosen[task] = local[task]
    if strangers:
        _check_built_in(strangers, {*local, *(tag for config in local.values() for tag in _tags(config))}, folder)
    return list(chosen.values())


def _check_built_in(names: Sequence[str], local_names: set[str], folder: str | Path | None) -> None:
    from lm_eval.tasks import TaskManager

    built_in = set(TaskManager().all_tasks)  # reads some ten thousand files: seconds
    for name in names:
        if name not in built_in:
            near = difflib.get_close_matches(name, sorted(local_names), n=1) or difflib.get_close_matches(
                name, built_in, n=1
            )
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(local_names)) or 'none'}"
            raise EvaluationError(
                f"tasks: {name!r} is neither in {folder or 'a task folder'} nor built into lm-eval; {hint}"
            )
