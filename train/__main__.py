"""`accelerate launch -m train JOB.json`: one fine-tuning run, from a job file to an adapter.

A process of its own, so that any number of processes, FSDP or DeepSpeed can be chosen by an accelerate configuration
file and all memory is free afterwards. Leaves `adapter/`, `merged/` (if asked), `log.jsonl`, `mixture.jsonl`,
`excluded.json` and, for warmup, `checkpoint-N/`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pyarrow.dataset as pads
import torch
from pydantic import ValidationError
from transformers import TrainingArguments, set_seed

from train.encoding import ENCODED_SCHEMA, Encoded, encode_all
from train.mixture import ConstantSchedule, CooldownSchedule, MixtureSampler
from train.models import attach_lora, load_base, load_tokenizer, save_merged
from train.moments import SaveMoments
from train.settings import MIXTURE_LOG, MixtureSettings, TrainJob, faults
from train.trainer import BalancedTrainer, TrainingError


def load_rows(job: TrainJob, tokenizer: object) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """Encoded rows of `job.data`; rows that are chats are encoded here."""
    if not job.data.exists():
        raise TrainingError(f"no such data file: {job.data}")
    table = pads.dataset(job.data, format="parquet")
    names = table.schema.names
    needed = ["id", "source", "input_ids", "labels"] if "input_ids" in names else ["id", "source", "messages"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise TrainingError(
            f"{job.data} lacks {', '.join(missing)}; its columns are {', '.join(names)}. Training needs id, source and "
            "either messages or input_ids and labels."
        )
    if "input_ids" in names:
        columns = [name for name in ENCODED_SCHEMA.names if name in names]
        return [Encoded(**row) for row in table.to_table(columns=columns).to_pylist()], []
    return encode_all(table.to_table(columns=["id", "source", "messages"]).to_pylist(), tokenizer, job.max_length)


def build_mixture(job: TrainJob, rows: list[Encoded], total_steps: int) -> MixtureSampler:
    settings = job.mixture or MixtureSettings(start=1.0, end=1.0, max_epochs=None)
    schedule = (
        ConstantSchedule(settings.start)
        if settings.start == settings.end
        else CooldownSchedule(settings.start, settings.end, settings.switch)
    )
    return MixtureSampler(
        [row.source for row in rows],
        pool_size=job.optimizer.batch_size,
        total_steps=total_steps,
        schedule=schedule,
        seed=job.seed,
        max_epochs=settings.max_epochs,
    )


def run(job: TrainJob) -> None:
    """Train as `job` says and write everything under `job.output`."""
    set_seed(job.seed)
    job.output.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(job.model)
    rows, excluded = load_rows(job, tokenizer)
    if not rows:
        raise TrainingError(
            f"no row of {job.data} can be trained on; the first reason: {excluded[0][1] if excluded else 'it is empty'}"
        )
    batch = job.optimizer.batch_size
    total_steps = job.max_steps or max(1, math.ceil(job.optimizer.epochs * len(rows) / batch))
    model = attach_lora(load_base(job.model), job.lora, job.seed)
    arguments = TrainingArguments(
        output_dir=str(job.output),
        max_steps=total_steps,
        per_device_train_batch_size=1,
        learning_rate=job.optimizer.learning_rate,
        lr_scheduler_type=job.optimizer.schedule,
        warmup_steps=int(job.optimizer.warmup_ratio * total_steps),
        max_grad_norm=job.optimizer.max_grad_norm,
        weight_decay=job.optimizer.weight_decay,
        logging_steps=max(1, total_steps // 50),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_drop_last=True,
        seed=job.seed,
        average_tokens_across_devices=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments.per_device_train_batch_size = batch // arguments.world_size
    if arguments.process_index == 0:
        (job.output / MIXTURE_LOG).unlink(missing_ok=True)  # it is appended to
    callbacks = [SaveMoments(job.output, total_steps, job.checkpoints)] if job.checkpoints else []
    trainer = BalancedTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        callbacks=callbacks,
        rows=rows,
        mixture=build_mixture(job, rows, total_steps),
        total_steps=total_steps,
        reweighting=job.reweighting,
        coreset=job.coreset,
        micro_batch_size=job.optimizer.micro_batch_size,
        seed=job.seed,
    )
    trainer.train()
    if not trainer.accelerator.is_main_process:
        return
    (job.output / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trainer.state.log_history))
    (job.output / "excluded.json").write_text(json.dumps(dict(excluded), indent=1))
    adapter = trainer.accelerator.unwrap_model(trainer.model)
    adapter.save_pretrained(job.output / "adapter")
    if job.merge:
        save_merged(adapter, tokenizer, job.output / "merged")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: accelerate launch -m train JOB.json", file=sys.stderr)
        return 2
    try:
        job = TrainJob.model_validate_json(Path(sys.argv[1]).read_text())
        run(job)
    except ValidationError as error:
        print(f"error: {sys.argv[1]}: {faults(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
