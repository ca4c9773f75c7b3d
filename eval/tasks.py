"""Task definitions: lm-evaluation-harness YAML files whose data paths are relative to the file itself.

The harness resolves a relative data path against the current folder, so a task would work from one place only. Here a
YAML file is read with the harness's own loader and its `dataset_kwargs.data_files` are made absolute before the harness
sees it. One key is our own: `scorer`, which has one of `eval.scorers` judge the answers. Names that the folder does not
know are looked up among the published benchmarks and the harness's built-in tasks (these may need the network).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError
from eval.published import FOLDER, PUBLISHED


@dataclass(frozen=True)
class TaskSpec:
    """A task or group as asked for. source: the harness's specification, a dict of a file or a name of its own; scorer:
    what judges the answers, None for the task's own metrics; capability: of items that name none themselves."""

    name: str
    source: dict | str
    scorer: str | None = None
    capability: str | None = None

    @property
    def runs_code(self) -> bool:
        return isinstance(self.source, dict) and bool(self.source.get("unsafe_code"))


@dataclass(frozen=True)
class LoadedTask:
    """One task of the harness with its data, ready to be evaluated."""

    name: str
    spec: TaskSpec
    task: Any

    @property
    def scores_prompts(self) -> bool:
        """Whether it asks log-likelihoods of given text."""
        return self.task.OUTPUT_TYPE != "generate_until"


def _absolute(files: Any, folder: Path, origin: Path) -> Any:
    """Data files with local relative paths made absolute; URLs stay."""
    if isinstance(files, dict):
        return {split: _absolute(value, folder, origin) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, folder, origin) for value in files]
    if not isinstance(files, str):
        raise EvaluationError(f"{origin}: dataset_kwargs.data_files: {files!r} is no path")
    if "://" in files:
        return files
    path = (folder / files).resolve()
    if not any(c in files for c in "*?[") and not path.is_file():
        raise EvaluationError(f"{origin}: dataset_kwargs.data_files: no such file: {path}")
    return str(path)


def read_folder(folder: str | Path) -> dict[str, TaskSpec]:
    """Every task of a folder by name. Raises `EvaluationError` naming a file that cannot be read, one without a task,
    and an unknown scorer."""
    tasks: dict[str, TaskSpec] = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        config = _read(path)
        name = config.get("task")
        if not isinstance(name, str):
            raise EvaluationError(f"{path}: no `task:` name")
        if name in tasks:
            raise EvaluationError(f"{path}: the task name {name!r} is used by another file of the folder")
        arguments = config.get("dataset_kwargs") or {}
        if not isinstance(arguments, dict):
            raise EvaluationError(f"{path}: dataset_kwargs: expected keys with values, found {arguments!r:.80}")
        if "data_files" in arguments:
            config["dataset_kwargs"] = {
                **arguments,
                "data_files": _absolute(arguments["data_files"], path.parent, path),
            }
        tasks[name] = _spec(path, name, config)
    if not tasks:
        raise EvaluationError(f"{folder}: no *.yaml task file")
    return tasks


def _read(path: Path) -> dict:
    """A task file with what it includes and the functions it names."""
    from lm_eval.tasks._yaml_loader import load_yaml
    from yaml import MarkedYAMLError

    try:
        return load_yaml(path)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else str(path)
        raise EvaluationError(f"{where}: not valid YAML: {error.problem}") from error
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: include: no such file: {error.filename}") from error
    except Exception as error:  # importing a function of the user's may raise anything
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise EvaluationError(f"{path}: {type(error).__name__}: {first_line}") from error


def _spec(path: Path, name: str, config: dict) -> TaskSpec:
    from eval.scorers import SCORERS

    scorer = config.pop("scorer", None)
    if scorer is not None and scorer not in SCORERS:
        near = difflib.get_close_matches(str(scorer), SCORERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SCORERS)}"
        raise EvaluationError(f"{path}: unknown scorer {scorer!r}; {hint}")
    runs_code = scorer is not None and SCORERS[scorer].runs_code
    if bool(config.get("unsafe_code")) != runs_code:
        raise EvaluationError(
            f"{path}: `unsafe_code: true` belongs with a scorer that runs programs in the sandbox "
            f"({', '.join(n for n, s in SCORERS.items() if s.runs_code)}), and such a scorer with it"
        )
    if scorer is not None:
        # the harness only generates: its placeholder for answers that are judged elsewhere
        config |= {"metric_list": [{"metric": "bypass"}], "process_results": _judged_elsewhere}
    return TaskSpec(name, config, scorer)


def _judged_elsewhere(doc: dict, results: list) -> dict[str, float]:
    return {"bypass": 0.0}


def _tags(spec: TaskSpec) -> list[str]:
    assert isinstance(spec.source, dict)
    tag = spec.source.get("tag") or []
    return [tag] if isinstance(tag, str) else list(tag)


def resolve(names: Sequence[str], folder: str | Path | None) -> list[TaskSpec]:
    """Task names and tags → what they stand for.

    Each task comes once, in the order first asked for. Raises `EvaluationError` for a name that is none, with the
    nearest one, and for a built-in task that would run model-written programs without a sandbox.
    """
    local = read_folder(folder) if folder is not None else {}
    chosen: dict[str, TaskSpec] = {}
    strangers = []
    for name in names:
        tagged = [task for task, spec in local.items() if name in _tags(spec)]
        for task in [name] if name in local else tagged:
            chosen[task] = local[task]
        if name in local or tagged:
            continue
        if name in PUBLISHED:
            chosen[name] = _published(name)
        else:
            strangers.append(name)
            chosen[name] = TaskSpec(name, name)
    if strangers:
        known = {*local, *(tag for spec in local.values() for tag in _tags(spec)), *PUBLISHED}
        _check_built_in(strangers, known, folder)
    return list(chosen.values())


def _published(name: str) -> TaskSpec:
    task, capability = PUBLISHED[name]
    own = read_folder(FOLDER)
    if task in own:
        return TaskSpec(name, own[task].source, own[task].scorer, capability)
    return TaskSpec(name, task, None, capability)


def _check_built_in(names: Sequence[str], known: set[str], folder: str | Path | None) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()  # reads some ten thousand files: seconds
    built_in = set(manager.all_tasks)
    for name in names:
        if name not in built_in:
            near = difflib.get_close_matches(name, sorted(known), n=1) or difflib.get_close_matches(name, built_in, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            raise EvaluationError(
                f"tasks: {name!r} is neither in {folder or 'a task folder'} nor built into lm-eval; {hint}"
            )
        unsafe = [task for task, config in _configurations(manager, name) if config.get("unsafe_code")]
        if unsafe:
            raise EvaluationError(
                f"tasks: {unsafe[0]!r} runs model-written programs without a sandbox; use humaneval or mbpp, or a task "
                "file of your own with `scorer: code`"
            )


def _configurations(manager: Any, name: str) -> list[tuple[str, dict]]:
    """(name, configuration) of every task behind a built-in name, which may be a tag or a group."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    config = entry.cfg or {}
    inside = [*(entry.tags if entry.cfg is None else ()), *(config.get("task") or () if "group" in config else ())]
    names = [child if isinstance(child, str) else child.get("task", child.get("group", "")) for child in inside]
    return [(name, config), *(found for child in names if child != name for found in _configurations(manager, child))]


def check_code(specs: Sequence[TaskSpec], run_code: bool) -> None:
    """Refuse tasks that run model-written programs unless that was asked for and there is a sandbox. Raises
    `EvaluationError` with the remedy."""
    names = [spec.name for spec in specs if spec.runs_code]
    if not names:
        return
    if not run_code:
        raise EvaluationError(
            f"tasks: {', '.join(names)} run programs that the model writes; set run_code: true to allow it (they run "
            "in a bubblewrap sandbox without network and files), or leave these tasks out"
        )
    from eval.sandbox import find_sandbox

    try:
        find_sandbox()
    except EvaluationError as error:
        raise EvaluationError(f"tasks: {', '.join(names)} run programs that the model writes, but {error}") from error


def load(specs: Sequence[TaskSpec], seed: int) -> list[LoadedTask]:
    """The tasks with their data; a group or tag becomes its tasks. Raises `EvaluationError` naming a task whose data
    cannot be had or is empty."""
    from lm_eval.tasks import TaskManager

    only_local = all(isinstance(spec.source, dict) for spec in specs)
    manager = TaskManager(include_defaults=not only_local)
    loaded: list[LoadedTask] = []
    for spec in specs:
        for name, task in _load(manager, spec).items():
            name = spec.name if isinstance(spec.source, dict) else name
            first = next((other.spec for other in loaded if other.name == name), None)
            if first is not None and isinstance(first.source, str) and isinstance(spec.source, str):
                continue  # a task beside its group
            if first is not None:
                raise EvaluationError(f"tasks: {first.name} and {spec.name} both have a task {name}; leave one out")
            if not len(task.eval_docs):
                raise EvaluationError(f"task {name} has no items{_data_of(spec)}")
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=seed)
            loaded.append(LoadedTask(name, spec, task))
    return loaded


def _load(manager: Any, spec: TaskSpec) -> Mapping[str, Any]:
    from datasets.exceptions import DatasetsError

    if any(path.endswith(".parquet") and Path(path).is_file() and not _rows(path) for path in _named_files(spec)):
        raise EvaluationError(f"task {spec.name} has no items{_data_of(spec)}")  # `datasets` would not say so
    try:
        return manager.load([copy.deepcopy(spec.source)])["tasks"]  # the harness changes the dicts that it is given
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"task {spec.name}: its data cannot be loaded{_data_of(spec)}: {first_line}") from error


def _named_files(spec: TaskSpec) -> list[str]:
    """The data files of a task as its file names them: paths, patterns and addresses."""
    arguments = spec.source.get("dataset_kwargs") or {} if isinstance(spec.source, dict) else {}
    files = arguments.get("data_files") or []
    splits = files.values() if isinstance(files, dict) else [files]
    return [path for split in splits for path in ([split] if isinstance(split, str) else split)]


def local_files(spec: TaskSpec) -> list[Path]:
    """The data of a task that lies on this machine: what its answers depend on beside its own file."""
    named = [name for name in _named_files(spec) if "://" not in name]
    folder = spec.source.get("dataset_path") if isinstance(spec.source, dict) else None
    if folder is not None and Path(folder).is_absolute():
        named.append(folder)
    return sorted({Path(path) for name in named for path in Path("/").glob(name.lstrip("/"))})


def folder_files(names: Sequence[str], folder: str | Path) -> list[Path]:
    """The data on this machine behind those of the names that a task folder knows; it may lie outside the folder."""
    specs = read_folder(folder).values()
    asked = [spec for spec in specs if {spec.name, *_tags(spec)} & set(names)]
    return sorted({path for spec in asked for path in local_files(spec)})


def _rows(path: str) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def _data_of(spec: TaskSpec) -> str:
    files = spec.source.get("dataset_kwargs", {}).get("data_files") if isinstance(spec.source, dict) else None
    return f" ({files})" if files else ""
