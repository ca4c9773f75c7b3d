"""`BalancedTrainer`: a `transformers.Trainer` whose batches come from a mixture, shrink to a coreset and are weighted
by loss.

One optimizer step: draw a pool of B rows (mixture) -> keep the core (coreset) -> weights with mean 1 from the core's
losses (weighing) -> share the core over the processes by tokens -> micro-batches, W * sum(c_i l_i) per process with
coefficients c that sum over all processes to the reduction, no other division (coreset spec, section 9). Each part is
optional; with none this is plain shuffled training on per-example means. Everything is a function of the counter of
attempted steps and of a small state that every checkpoint holds, so a killed run goes on bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from train.core import CoreChooser, StepCore, whole_pool
from train.encoding import Encoded, collate
from train.forward import batch_losses
from train.losses import per_example_loss
from train.mixture import MixtureSampler
from train.resume import read_state, refuse_changes, write_state
from train.selection_pass import SelectionPass
from train.settings import CoresetSettings, Precision, ReweightingSettings
from train.setup_checks import TrainingError, refuse_what_cannot_work
from train.sharing import share_by_tokens
from train.step_log import StepLog, TrainedStep
from train.weighing import GatherSet, Weigher, loss_coefficients

MAX_LOST_STEPS = 10


class PlannedSteps(IterableDataset):
    """The steps still to do, from the Trainer's own counter: what they draw is planned in the step, on every process,
    so nothing is ever prefetched and a resumed run has no batches to skip."""

    def __init__(self, trainer: BalancedTrainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.total_steps

    def __iter__(self) -> Iterator[dict[str, int]]:
        for step in range(self.trainer.state.global_step, len(self)):
            yield {"step": step}


class BalancedTrainer(Trainer):
    """`Trainer` over encoded rows.

    rows: the encoded examples; mixture: their sampler, which fixes pool size and number of steps; reweighting,
    coreset: settings or None; micro_batch_size: rows per forward pass and process (None: all at once), or Trainer's own
    `per_device_train_batch_size` where `gradient_accumulation_steps` is above 1; reduction: see `OptimizerSettings`;
    log_path: the step log, or None; fingerprint: whatever must be equal for a resume; stateful: parts whose
    `state_dict` every checkpoint keeps. `eval_dataset` takes encoded rows too. Raises `TrainingError` for combinations
    that would train something else than asked.
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
        reduction: str = "sample",
        seed: int = 0,
        log_path: Path | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        stateful: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.rows, self.mixture, self.total_steps = rows, mixture, total_steps
        self.reweighting, self.reduction = reweighting, reduction
        self.fingerprint, self.stateful = dict(fingerprint or {}), dict(stateful or {})
        self.weigher = Weigher(reweighting, coreset, total_steps)
        self.tokens = np.array([row.trained_tokens for row in rows], dtype=np.int64)
        self.lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
        self.lost_steps = 0
        self.seconds: dict[str, float] = {}
        super().__init__(train_dataset=PlannedSteps(self), data_collator=self._collate, **kwargs)
        self.args.ignore_data_skip = True
        self.micro_batch_size = self._own_accumulation(micro_batch_size)
        refuse_what_cannot_work(self, coreset)
        self.step_log = StepLog(log_path if self.is_world_process_zero() else None)
        self.chooser = self._chooser(coreset, seed) if coreset else None

    # Set-up

    def _own_accumulation(self, micro_batch_size: int | None) -> int | None:
        """Take over the framework's accumulation, whose own scaling would divide a second time."""
        accumulation, self.args.gradient_accumulation_steps = self.args.gradient_accumulation_steps, 1
        if accumulation == 1:
            return micro_batch_size
        per_device = self.args.per_device_train_batch_size
        product = accumulation * per_device * self.args.world_size
        if micro_batch_size is not None or product != self.mixture.pool_size:
            raise TrainingError(
                f"gradient_accumulation_steps {accumulation} x per_device_train_batch_size {per_device} x "
                f"{self.args.world_size} process(es) is {product}, the batch {self.mixture.pool_size}: make them "
                "equal, or set micro_batch_size alone"
            )
        self.accelerator.gradient_accumulation_steps = 1
        return per_device

    def _chooser(self, coreset: CoresetSettings, seed: int) -> CoreChooser:
        selection = None
        if coreset.feature != "random":
            half = self.accelerator.mixed_precision in ("bf16", "fp16")
            precision: Precision = "bfloat16" if half else "float32"
            selection = SelectionPass(self._inner_model(), self._pad_id(), precision)
        process, processes = self.args.process_index, self.args.world_size
        return CoreChooser(coreset, self.mixture, self.rows, selection, seed, process, processes, self._together)

    def get_train_dataloader(self) -> DataLoader:
        # a generator of its own: the loader draws a number when it starts, which would shift dropout after a resume
        return DataLoader(self.train_dataset, batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    # One optimizer step

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        model.train()
        step = int(inputs["step"])
        pool = self.mixture.plan(step)
        needs_losses = self.weigher.needs_losses(step)
        by_micro_batch = bool(needs_losses and self.reweighting and self.reweighting.scope == "micro")
        with self._timed("selection"):
            core = self._core(step, pool, needs_losses and not by_micro_batch)
        shares = share_by_tokens(self.lengths[core.rows].tolist(), self.args.world_size, equal_counts=by_micro_batch)
        examples = GatherSet(self.tokens[core.rows], self.mixture.codes[core.rows], core.cluster_sizes)
        train = self._by_micro_batch if by_micro_batch else self._whole_step
        weights, coefficients, losses = train(model, step, core, shares, examples)
        return self._finish(step, pool, core, weights, coefficients, losses)

    def _core(self, step: int, pool: NDArray[np.int64], needs_losses: bool) -> StepCore:
        if self.chooser is None:
            return whole_pool(pool)
        # one micro-batch is the whole step: its own forward pass tells the losses, and kept rows need no other
        size = self.chooser.settings.core_size(pool.size)
        at_hand = self.micro_batch_size is None or size <= self.micro_batch_size
        return self.chooser.choose(step, pool, with_losses=needs_losses and not at_hand)

    def _whole_step(
        self, model: torch.nn.Module, step: int, core: StepCore, shares: list[NDArray], examples: GatherSet
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Weights over the whole step. Losses come from the selection pass, from the one micro-batch, or from a pass
        without a graph, in this order of preference."""
        mine = shares[self.args.process_index]
        micro = self._micro_batches(mine)
        known, at_hand = None, None
        if self.weigher.needs_losses(step):
            with self._timed("weights"):
                if core.losses is not None:
                    known = core.losses
                elif max(map(len, shares)) <= (self.micro_batch_size or len(core.rows)):
                    at_hand = self._losses(model, core.rows[mine])
                    known = self._everyone(at_hand.detach(), mine, len(core.rows))
                else:
                    known = self._everyone(self._losses_without_graph(model, core, micro), mine, len(core.rows))
        weights = self.weigher.weights(step, examples, self.mixture.domain_weights(step), known)
        coefficients = loss_coefficients(weights, examples.tokens, self.reduction)
        parts = []
        with self._timed("backward"):
            for k, positions in enumerate(micro):
                with self._synchronised(model, last=k == len(micro) - 1):
                    losses = at_hand if at_hand is not None else self._losses(model, core.rows[positions])
                    parts.append(self._backward(losses, coefficients[positions]))
            trained = self._everyone(torch.cat(parts), mine, len(core.rows))
        return weights, coefficients, trained

    def _by_micro_batch(
        self, model: torch.nn.Module, step: int, core: StepCore, shares: list[NDArray], examples: GatherSet
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Weights within one micro-batch over all processes, as published; each counts by its number of examples."""
        count = len(core.rows)
        weights, coefficients, losses = np.zeros(count), np.zeros(count), np.full(count, np.nan)
        rounds = [self._micro_batches(share) for share in shares]
        domain_weights = self.mixture.domain_weights(step)
        for k in range(len(rounds[0])):
            together = np.concatenate([micro[k] for micro in rounds])
            mine = rounds[self.args.process_index][k]
            with self._synchronised(model, last=k == len(rounds[0]) - 1):
                at_hand = self._losses(model, core.rows[mine])
                losses[together] = self._everyone(at_hand.detach(), mine, count)[together]
                part = examples.part(together)
                weights[together] = self.weigher.weights(step, part, domain_weights, losses[together])
                scale = len(together) / count
                coefficients[together] = scale * loss_coefficients(weights[together], part.tokens, self.reduction)
                self._backward(at_hand, coefficients[mine])
        return weights, coefficients, losses

    def _backward(self, losses: torch.Tensor, coefficients: NDArray) -> torch.Tensor:
        """Back-propagate W * sum(c_i l_i) of one micro-batch, without rows of no finite loss; returns the losses."""
        scale = torch.as_tensor(coefficients, dtype=torch.float32, device=losses.device)
        used = torch.isfinite(losses) & (scale > 0)
        self.accelerator.backward((losses[used] * scale[used]).sum() * self.args.world_size)
        return losses.detach()

    def _finish(
        self,
        step: int,
        pool: NDArray[np.int64],
        core: StepCore,
        weights: NDArray,
        coefficients: NDArray,
        losses: NDArray,
    ) -> torch.Tensor:
        """Skip the step if nothing can be learnt from it, log it, and return its unweighted mean loss."""
        used = np.isfinite(losses) & (weights > 0)
        skipped = not used.any() or not self._gradients_are_finite()
        ids = [self.rows[i].id for i in core.rows]
        if skipped:
            self._skip(step, ids)
        else:
            self.lost_steps = 0
        with self._timed("log"):
            self.step_log.add(
                TrainedStep(
                    step=step,
                    temperature=self.mixture.tau(step),
                    probabilities=self.mixture.probabilities(step),
                    epochs=self.mixture.drawn / self.mixture.sizes,
                    names=self.mixture.names,
                    pool_domains=self.mixture.codes[pool],
                    domains=self.mixture.codes[core.rows],
                    tokens=self.tokens[core.rows],
                    weights=weights,
                    losses=losses,
                    weighted_loss=float((coefficients[used] * losses[used]).sum()) if used.any() else np.nan,
                    kept=core.kept,
                    ids=ids,
                    skipped=skipped,
                    unranked=core.unranked,
                )
            )
        mean = losses[used].mean() if used.any() else np.nan
        return torch.tensor(mean, dtype=torch.float32, device=self.args.device)

    def _gradients_are_finite(self) -> bool:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]  # type: ignore[union-attr]
        mine = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        finite = bool(torch.stack([g.isfinite().all() for g in mine]).all()) if mine else True
        if not self.is_fsdp_enabled:
            return finite
        # each process sees its pieces only, and all must skip the step or none
        bad = torch.tensor(float(not finite), device=self.args.device)
        return float(self.accelerator.reduce(bad, "sum")) == 0

    def _skip(self, step: int, ids: Sequence[str]) -> None:
        """Leave parameters and optimizer as they are: an optimizer passes over parameters without a gradient."""
        self.model.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        self.lost_steps += 1
        named = f"{', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}"
        if self.lost_steps >= MAX_LOST_STEPS:
            raise TrainingError(
                f"no step of the last {MAX_LOST_STEPS} had a finite loss and gradient (now at step {step}, rows "
                f"{named}): lower the learning rate, or look at these rows"
            )
        if self.is_world_process_zero():
            print(f"warning: step {step} is skipped: no finite loss or gradient (rows {named})", flush=True)

    # Losses

    def _losses(self, model: torch.nn.Module, positions: NDArray[np.int64]) -> torch.Tensor:
        """(n,) losses of rows, with a graph where gradients are enabled."""
        head = self._inner_model().get_output_embeddings()
        with self.compute_loss_context_manager():
            return batch_losses(model, [self.rows[i] for i in positions], self._pad_id(), self.args.device, head)

    def _losses_without_graph(
        self, model: torch.nn.Module, core: StepCore, micro: Sequence[NDArray[np.int64]]
    ) -> torch.Tensor:
        """(n,) losses in evaluation mode: dropout would blur them and use up random numbers."""
        model.eval()
        try:
            with torch.no_grad():
                return torch.cat([self._losses(model, core.rows[positions]) for positions in micro])
        finally:
            model.train()

    def _micro_batches(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = self.micro_batch_size or len(positions)
        return [positions[i : i + size] for i in range(0, len(positions), size)]

    def _everyone(self, mine: torch.Tensor, positions: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """(count,) float64 values of all processes."""
        return self._together(mine.double(), positions, count).numpy()

    def _together(self, mine: torch.Tensor, positions: NDArray[np.int64], count: int) -> torch.Tensor:
        """(count, ...) rows of all processes, on the CPU, from each one's own, which stand at `positions`."""
        values = torch.zeros(count, *mine.shape[1:], dtype=mine.dtype)
        values[torch.as_tensor(positions)] = mine.cpu()
        if self.args.world_size == 1:
            return values
        return self.accelerator.reduce(values.to(self.args.device), "sum").cpu()

    def _synchronised(self, model: torch.nn.Module, *, last: bool) -> Any:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(model)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begun

    # Logging, evaluation, checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.step_log.drain()
            logs |= {f"seconds/{phase}": total for phase, total in self.seconds.items()}
            self.seconds.clear()
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean over examples of their own mean token loss, for `evaluate`."""
        labels = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        loss = per_example_loss(outputs.logits, labels)[0].mean()
        return (loss, outputs) if return_outputs else loss

    def _collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return collate(rows, self._pad_id())

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if not self.is_world_process_zero():
            return
        selector = self.chooser.selector.state_dict() if self.chooser else {}
        arrays = {k: np.array(selector.pop(k)) for k in ("m_hist", "v_hist") if selector.get(k) is not None}
        state = {
            "identity": self._identity(),
            "mixture": self.mixture.state_dict(),
            "selector": selector,
            "lost_steps": self.lost_steps,
            "log_bytes": self.step_log.bytes,
            "stateful": {name: part.state_dict() for name, part in self.stateful.items()},
        }
        write_state(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", state, arrays)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        state, arrays = read_state(Path(resume_from_checkpoint))
        refuse_changes(state["identity"], self._identity())
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.mixture.load_state_dict(state["mixture"])
        if self.chooser:
            history = {k: arrays.get(k) for k in ("m_hist", "v_hist")}
            self.chooser.selector.load_state_dict({**state["selector"], **history})
        self.lost_steps = state["lost_steps"]
        self.step_log.restart(state["log_bytes"])
        for name, part in self.stateful.items():
            part.load_state_dict(state["stateful"][name])

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resume."""
        return {
            "processes": self.args.world_size,
            "pool_size": self.mixture.pool_size,
            "total_steps": self.total_steps,
            "sources": list(self.mixture.names),
            "micro_batch_size": self.micro_batch_size,
            "reduction": self.reduction,
            "reweighting": self.reweighting.model_dump(mode="json") if self.reweighting else None,
            "coreset": self.chooser.identity if self.chooser else None,
            **self.fingerprint,
        }

    def _inner_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _pad_id(self) -> int:
        return int(self.processing_class.pad_token_id)  # type: ignore[union-attr]
