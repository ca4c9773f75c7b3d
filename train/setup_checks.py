"""What a set-up of processes, kernels and settings cannot train as asked: found when the trainer is built.

What settings alone can tell is refused with the configuration (`TrainingParts`); here is what needs the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from train.settings import CoresetSettings

if TYPE_CHECKING:
    from train.trainer import BalancedTrainer


class TrainingError(ValueError):
    """A training run that cannot go on as configured."""


def refuse_what_cannot_work(trainer: BalancedTrainer, coreset: CoresetSettings | None) -> None:
    """Raise `TrainingError` for a combination that would train something else than asked, with what to change."""
    world = trainer.args.world_size
    if trainer.args.use_liger_kernel:
        raise TrainingError("use_liger_kernel fuses head and loss, which leaves no loss per example; switch it off")
    if trainer.mixture.pool_size % world:
        raise TrainingError(
            f"batch_size {trainer.mixture.pool_size} cannot be split over {world} processes; make it a multiple"
        )
    if coreset and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise TrainingError(
            "coreset replays one layer, which FSDP and DeepSpeed keep in pieces; use plain processes, or switch "
            "coreset off"
        )
    if trainer.stateful and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise TrainingError(
            "checkpoints for influence keep Adam's moments whole, which FSDP and DeepSpeed cut; use plain processes"
        )
    core = coreset.core_size(trainer.mixture.pool_size) if coreset else trainer.mixture.pool_size
    if core < world:
        raise TrainingError(f"coreset leaves {core} examples for {world} processes; raise ratio or batch_size")
    if trainer.is_deepspeed_enabled and trainer.micro_batch_size:
        raise TrainingError("DeepSpeed steps at every backward pass; leave micro_batch_size unset with it")
    by_micro_batch = trainer.reweighting and trainer.reweighting.scope == "micro"
    if by_micro_batch and core % (world * (trainer.micro_batch_size or 1)):
        raise TrainingError(
            f"reweighting.scope micro needs whole micro-batches on every process: {core} examples are no multiple "
            f"of {world} process(es) x {trainer.micro_batch_size or 1}"
        )
