"""`accelerate launch -m train JOB.json`: one fine-tuning run, from a job file to an adapter.

A process of its own, so that any number of processes, FSDP or DeepSpeed can be chosen by an accelerate configuration
file and all memory is free afterwards. Leaves `adapter/`, `merged/` (if asked), `log.jsonl`, `mixture.jsonl`,
`excluded.json` and, for warmup, `checkpoint-N/`. While it runs, `resume/` holds what a killed run goes on from; the
same command then does so by itself.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import TrainingArguments, set_seed

from train.data import load_rows, rows_digest
from train.encoding import Encoded
from train.hidden_states import unit_vectors
from train.mixture import MixtureSampler
from train.mixture.build import build_sampler, epochs_note
from train.mixture.clusters import cluster_domains
from train.models import (
    adapter_start,
    attach_lora,
    load_adapter,
    load_base,
    load_tokenizer,
    put_together,
    save_adapter,
    save_merged,
)
from train.moments import SaveMoments
from train.process import end_with_parent, say_error
from train.resume import discard, drop_incomplete, last_checkpoint
from train.settings import MIXTURE_LOG, TrainJob, faults
from train.setup_checks import TrainingError
from train.trainer import BalancedTrainer
from train.whole_folder import whole_folder

RESUME, TENSORBOARD = "resume", "tensorboard"
LOGGED, SAVED = 50, 10  # times a run
NO_MATTER = {
    "data",
    "output",
    "merge",
    "save_every",
    "tensorboard",
}  # a resume may change these; the rows have a digest


def build_mixture(job: TrainJob, rows: Sequence[Encoded], model: Any, pad_id: int, total_steps: int) -> MixtureSampler:
    """The sampler of a job; domains are the sources, or clusters where there are none or clusters are asked for."""
    domains = [row.source for row in rows]
    if job.mixture and (job.mixture.domains == "clusters" or not any(domains)):
        vectors = unit_vectors(model, rows, pad_id, pooling="mean")
        domains = cluster_domains(vectors, job.mixture.clusters, job.seed)
    tokens = [row.trained_tokens for row in rows]
    batch = job.optimizer.batch_size
    return build_sampler(job.mixture, domains, tokens, pool_size=batch, total_steps=total_steps, seed=job.seed)


def training_arguments(job: TrainJob, total_steps: int) -> TrainingArguments:
    logging = max(1, total_steps // LOGGED)
    arguments = TrainingArguments(
        output_dir=str(job.output / RESUME),
        max_steps=total_steps,
        per_device_train_batch_size=1,
        learning_rate=job.optimizer.learning_rate,
        lr_scheduler_type=job.optimizer.schedule,
        warmup_steps=int(job.optimizer.warmup_ratio * total_steps),
        max_grad_norm=job.optimizer.max_grad_norm,
        weight_decay=job.optimizer.weight_decay,
        logging_steps=logging,
        save_strategy="steps",
        # a multiple of the logging steps, so that a resumed log averages over the same windows
        save_steps=job.save_every or logging * math.ceil(total_steps / SAVED / logging),
        save_total_limit=2,
        report_to=["tensorboard"] if job.tensorboard else [],
        remove_unused_columns=False,
        seed=job.seed,
        average_tokens_across_devices=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        # else each of several processes on a CPU would train alone, as the first one
        use_cpu=int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available(),
    )
    arguments.per_device_train_batch_size = max(1, job.optimizer.batch_size // arguments.world_size)
    return arguments


def _loading_device() -> str | None:
    """Of several processes each loads the base model on its own GPU; under FSDP on the CPU, to be cut from there."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "cpu"
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return None


def build_trainer(job: TrainJob, rows: Sequence[Encoded], tokenizer: Any) -> BalancedTrainer:
    """Model, mixture and trainer of a job. Raises a `ValueError` of the part that cannot be built."""
    if job.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("tensorboard: true needs the package tensorboard; install it, or set tensorboard: false")
    total_steps = job.max_steps or max(1, math.ceil(job.optimizer.epochs * len(rows) / job.optimizer.batch_size))
    base = load_base(job.model, device=_loading_device(), quantization=job.lora.quantization)
    mixture = build_mixture(job, rows, base, tokenizer.pad_token_id, total_steps)
    moments = {"moments": SaveMoments(job.output, total_steps, job.checkpoints)} if job.checkpoints else {}
    return BalancedTrainer(
        model=attach_lora(base, job.lora, job.seed),
        args=training_arguments(job, total_steps),
        processing_class=tokenizer,
        callbacks=list(moments.values()),
        rows=rows,
        mixture=mixture,
        total_steps=total_steps,
        reweighting=job.reweighting,
        coreset=job.coreset,
        micro_batch_size=job.optimizer.micro_batch_size,
        reduction=job.optimizer.reduction,
        seed=job.seed,
        log_path=job.output / MIXTURE_LOG,
        fingerprint={**job.model_dump(mode="json", exclude=NO_MATTER), "rows": rows_digest(rows)},
        stateful=moments,
    )


def run(job: TrainJob) -> None:
    """Train as `job` says and write everything under `job.output`; goes on where a killed run of the job stopped."""
    set_seed(job.seed)
    job.output.mkdir(parents=True, exist_ok=True)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.output / TENSORBOARD)
    tokenizer = load_tokenizer(job.model)
    rows, excluded = load_rows(job, tokenizer)
    if not rows:
        raise TrainingError(
            f"no row of {job.data} can be trained on; the first reason: {excluded[0][1] if excluded else 'it is empty'}"
        )
    trainer = build_trainer(job, rows, tokenizer)
    main_process = trainer.is_world_process_zero()
    found = last_checkpoint(job.output / RESUME)
    trainer.accelerator.wait_for_everyone()  # all have looked before anything is removed
    if main_process:
        drop_incomplete(job.output / RESUME)
        for line in epochs_note(trainer.mixture):
            print(f"warning: {line}", flush=True)
        if found:
            print(f"going on after step {found.name.removeprefix('checkpoint-')}", flush=True)
    if not found:
        trainer.step_log.restart(0)
    start = adapter_start(trainer.accelerator.unwrap_model(trainer.model), job.lora)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    adapter = trainer.accelerator.unwrap_model(trainer.model)
    pieces = put_together(adapter) if trainer.is_fsdp_enabled else None
    if not main_process:
        return
    # not the Trainer's summary: its mean loss and rates are of the time since the last resume only
    # and not its `epoch`, which a resume counts anew
    history = [line for line in trainer.state.log_history if "train_runtime" not in line]
    told = [{name: value for name, value in line.items() if name != "epoch"} for line in history]
    lines = [json.dumps(line, sort_keys=True) + "\n" for line in told]  # as a checkpoint keeps them
    (job.output / "log.jsonl").write_text("".join(lines))
    (job.output / "excluded.json").write_text(json.dumps(dict(excluded), indent=1))
    with whole_folder(job.output / "adapter") as folder:
        save_adapter(adapter, folder, start, pieces)
    if job.merge:
        # merge into the weights that were rounded, not into the rounded ones; and into whole ones, not into pieces
        if job.lora.quantization != "none" or pieces is not None:
            adapter = load_adapter(load_base(job.model), job.output / "adapter")
        with whole_folder(job.output / "merged") as folder:
            save_merged(adapter, tokenizer, folder)
    discard(job.output / RESUME)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: accelerate launch -m train JOB.json", file=sys.stderr)
        return 2
    end_with_parent()
    try:
        job = TrainJob.model_validate_json(Path(sys.argv[1]).read_text())
        run(job)
    except ValidationError as error:
        say_error(faults(error), f"{sys.argv[1]}: ")
        return 2
    except OSError as error:
        say_error(error)
        return 2
    except ValueError as error:
        say_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
