"""`BalancedTrainer`: a `transformers.Trainer` whose batches come from a mixture, shrink to a coreset and are weighted
by loss.

One optimizer step: draw a pool of B rows (mixture) -> keep the core (coreset) -> weights with mean 1 from the core's
losses (reweighting) -> micro-batches, W * sum(omega_i l_i) / |core| per process, no other division (coreset spec,
section 9). The loss of an example is its own mean over label tokens, in every configuration, so that switching a part
on never changes the objective silently. Each part is optional; with none this is plain shuffled training on
per-example means.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, default_data_collator

from train.coreset import CoresetSelector
from train.encoding import Encoded, collate
from train.last_layer import last_layer_features
from train.losses import per_example_loss
from train.mixture import MixtureSampler
from train.reweighting import ReweightingSchedule, effective_sample_size, loss_weights
from train.settings import MIXTURE_LOG, CoresetSettings, ReweightingSettings

MAX_LOST_STEPS = 10


class TrainingError(ValueError):
    """A training run that cannot go on as configured."""


class RowPositions(Dataset):
    """The rows by position; the batch is put together in the training step, where the coreset is known."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, int]:
        return {"position": int(position)}


class PoolOrder(Sampler[int]):
    """The mixture's plan, flattened; every process sees the same order and takes its own share of each pool."""

    def __init__(self, mixture: MixtureSampler, total_steps: int) -> None:
        self.mixture = mixture
        self.total_steps = total_steps

    def __len__(self) -> int:
        return self.total_steps * self.mixture.pool_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.total_steps):
            yield from self.mixture.plan(step).tolist()


class BalancedTrainer(Trainer):
    """`Trainer` over encoded rows.

    rows: the encoded examples; mixture: their sampler, which fixes pool size and number of steps; reweighting,
    coreset: settings or None; micro_batch_size: rows per forward pass and process (None: all at once).
    `args.gradient_accumulation_steps` stays 1: the trainer splits and scales its batches itself.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Encoded],
        mixture: MixtureSampler,
        total_steps: int,
        reweighting: ReweightingSettings | None = None,
        coreset: CoresetSettings | None = None,
        micro_batch_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.rows = rows
        self.mixture = mixture
        self.total_steps = total_steps
        self.micro_batch_size = micro_batch_size
        self.reweighting = reweighting
        self.schedule = (
            ReweightingSchedule(
                total_steps=total_steps, burn_in=reweighting.burn_in, temperature=reweighting.temperature
            )
            if reweighting
            else None
        )
        self.selector = (
            CoresetSelector(
                ratio=coreset.ratio,
                kappa=coreset.kappa,
                feature=coreset.feature,
                mask_size=coreset.mask_size,
                seed=seed,
            )
            if coreset
            else None
        )
        self.lost_steps = 0
        super().__init__(train_dataset=RowPositions(len(rows)), data_collator=default_data_collator, **kwargs)
        if self.args.gradient_accumulation_steps != 1:
            raise TrainingError(
                "set micro_batch_size instead of gradient_accumulation_steps: this trainer scales its own batches"
            )
        if self.selector and self.args.world_size > 1:
            raise TrainingError("coreset runs on one process so far; start one process or switch coreset off")
        if self.mixture.pool_size % self.args.world_size:
            raise TrainingError(
                f"batch_size {self.mixture.pool_size} cannot be split over {self.args.world_size} processes; "
                "make it a multiple"
            )

    def _get_train_sampler(self, *args: Any) -> Sampler:
        return PoolOrder(self.mixture, self.total_steps)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        model.train()
        step = self.state.global_step
        pool = inputs["position"].cpu().numpy()
        core = self._core(step, pool)
        micro = self._micro_batches(core)
        weights, at_hand = self._weights(model, step, micro)
        losses = self._backward(model, micro, weights, at_hand)
        finite = losses[torch.isfinite(losses)]
        self._watch_losses(len(finite), step)
        self._log_mixture(step, [self.rows[i] for i in pool], core, weights)
        return finite.mean() if len(finite) else torch.zeros((), device=losses.device)

    def _core(self, step: int, pool: np.ndarray) -> list[Encoded]:
        """The rows that are trained on: the whole pool (B,) of row positions, or its coreset."""
        rows = [self.rows[i] for i in pool]
        if self.selector is None:
            return rows
        plan = self.selector.plan(step, self.mixture.codes[pool], self.mixture.probabilities(step), pool)
        features = None
        if plan.needs_features:
            candidates = [rows[i] for i in plan.candidates]
            features = last_layer_features(self._inner_model(), candidates, self._pad_id()).numpy()
        return [rows[i] for i in self.selector.select(plan, features).positions]

    def _micro_batches(self, rows: list[Encoded]) -> list[list[Encoded]]:
        size = self.micro_batch_size or len(rows)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def _forward(self, model: torch.nn.Module, rows: list[Encoded]) -> torch.Tensor:
        batch = {key: value.to(self.args.device) for key, value in collate(rows, self._pad_id()).items()}
        labels = batch.pop("labels")
        with self.compute_loss_context_manager():
            logits = model(**batch, use_cache=False).logits
        return per_example_loss(logits, labels)[0]

    def _weights(
        self, model: torch.nn.Module, step: int, micro: list[list[Encoded]]
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """Weights of this process's rows (mean 1 over all processes), and the losses with their graph when they were
        needed."""
        count = sum(map(len, micro))
        temperature = self.schedule(step) if self.schedule else np.inf
        if self.reweighting is None or self.reweighting.strategy == "uniform" or not np.isfinite(temperature):
            return np.ones(count), None
        at_hand = None
        if len(micro) == 1:
            at_hand = self._forward(model, micro[0])
            mine = at_hand.detach()
        else:
            with torch.no_grad():
                mine = torch.cat([self._forward(model, rows) for rows in micro])
        everyone = self.accelerator.gather(mine).cpu().double().numpy()
        weights = loss_weights(everyone, self.reweighting.strategy, temperature=temperature, cap=self.reweighting.cap)
        offset = self.accelerator.process_index * count
        return weights[offset : offset + count], at_hand

    def _backward(
        self, model: torch.nn.Module, micro: list[list[Encoded]], weights: np.ndarray, at_hand: torch.Tensor | None
    ) -> torch.Tensor:
        """Back-propagate W * sum(omega_i l_i) / M micro-batch by micro-batch; returns the unweighted (B,) losses."""
        count = sum(map(len, micro)) * self.args.world_size
        omega = torch.as_tensor(weights, dtype=torch.float32, device=self.args.device)
        parts, start = [], 0
        for k, rows in enumerate(micro):
            last = k == len(micro) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                losses = at_hand if at_hand is not None else self._forward(model, rows)
                share = omega[start : start + len(rows)]
                used = torch.isfinite(losses) & (share > 0)
                total = (losses[used] * share[used]).sum() * self.args.world_size / count
                self.accelerator.backward(total)
            parts.append(losses.detach())
            start += len(rows)
        return torch.cat(parts)

    def _watch_losses(self, finite: int, step: int) -> None:
        self.lost_steps = 0 if finite else self.lost_steps + 1
        if self.lost_steps >= MAX_LOST_STEPS:
            raise TrainingError(
                f"no example had a finite loss in the last {MAX_LOST_STEPS} steps (now at step {step}): "
                "lower the learning rate"
            )

    def _log_mixture(self, step: int, pool: list[Encoded], core: list[Encoded], weights: np.ndarray) -> None:
        """One line per optimizer step: temperature, shares, trained tokens per domain, effective sample size."""
        if not self.accelerator.is_main_process:
            return
        tokens: Counter[str] = Counter()
        for row in core:
            tokens[row.source] += row.trained_tokens
        record = {
            "step": step,
            "temperature": self.mixture.tau(step),
            "pool": dict(Counter(row.source for row in pool)),
            "trained": dict(Counter(row.source for row in core)),
            "trained_tokens": dict(tokens),
            "effective_sample_size": effective_sample_size(weights),
        }
        with (Path(self.args.output_dir or ".") / MIXTURE_LOG).open("a") as log:
            log.write(json.dumps(record, sort_keys=True) + "\n")

    def _inner_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _pad_id(self) -> int:
        return int(self.processing_class.pad_token_id)  # type: ignore[union-attr]
