"""The expensive half of a linear datamodeling score: train one model on each of many random halves of a small pool.

    .venv/bin/python benchmarks/datamodeling/retrain.py FOLDER                  # 30 to 60 minutes, one CPU core
    .venv/bin/python benchmarks/datamodeling/retrain.py FOLDER --subsets 160    # goes on: 80 more halves

A score that says which rows matter for a target must say how its loss changes with the rows trained on. So: draw n
rows of the configuration's pool, in proportion to their sources; train the warmup's adapter on S random halves of them,
from the same initial weights each time; keep the losses of all targets. Some halves are trained once more in another
order of rows, which tells how much of a loss is chance. One warmup on all n rows is where predictions start. A killed
run goes on at the first model that is missing. `score.py FOLDER` reads the result.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import (
    ENCODED,
    EXAMPLES,
    LOSSES,
    NOTE,
    POOL,
    TARGETS,
    WARMUP,
    Study,
    StudyError,
    StudyNote,
    StudySettings,
    read_study,
    write_losses,
)
from transformers import get_scheduler

from curate.records import Example, rows_to_encode, write_examples
from curate.sources import read_pool, read_targets
from flows.config import RunConfig, load_config
from flows.stages.training import launch_training
from train.encoding import Encoded, encode_all, token_budget_batches, write_encoded
from train.models import attach_lora, load_base, load_tokenizer, trainable
from train.per_example import find_taps
from train.per_example.passes import batch_losses
from train.settings import OptimizerSettings, TrainJob

TOKENS_PER_BATCH = 4096


def draw_pool(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples in proportion to their sources (largest remainders), in the pool's order."""
    if count > len(examples):
        raise StudyError(f"--rows {count}: the pool has only {len(examples)} usable rows")
    sizes = Counter(example.source for example in examples)
    shares = {source: count * size / len(examples) for source, size in sizes.items()}
    quotas = {source: math.floor(share) for source, share in shares.items()}
    by_remainder = sorted(shares, key=lambda source: (quotas[source] - shares[source], source))
    for source in by_remainder[: count - sum(quotas.values())]:
        quotas[source] += 1
    rng = np.random.default_rng([seed, 0])
    chosen: list[int] = []
    for source in sorted(quotas):
        places = [i for i, example in enumerate(examples) if example.source == source]
        chosen += rng.choice(places, size=quotas[source], replace=False).tolist()
    return [examples[i] for i in sorted(chosen)]


def draw_halves(rows: int, subsets: int, seed: int) -> np.ndarray:
    """(S, n) bool, n // 2 members each; the first halves do not depend on how many are asked for."""
    members = np.zeros((subsets, rows), dtype=bool)
    for s in range(subsets):
        members[s, np.random.default_rng([seed, 1, s]).choice(rows, size=rows // 2, replace=False)] = True
    return members


def start_study(folder: Path, settings: StudySettings, config: RunConfig) -> None:
    """Draw and encode the rows and write everything but losses; the folder then holds a whole, empty study."""
    pool, _ = read_pool(config.data.pool, max_rejected=config.data.max_rejected)
    targets, _ = read_targets(config.data.targets, max_rejected=config.data.max_rejected)
    tokenizer = load_tokenizer(settings.model)
    usable = {row.id for row in _encode(pool, tokenizer, settings)}
    pool = draw_pool([example for example in pool if example.id in usable], settings.rows, settings.seed)
    encoded_targets = _encode(targets, tokenizer, settings)
    kept = {row.id for row in encoded_targets}
    targets = [example for example in targets if example.id in kept]
    for part in (EXAMPLES, ENCODED):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_examples(folder / EXAMPLES / POOL, pool)
    write_examples(folder / EXAMPLES / TARGETS, targets, targets=True)
    write_encoded(folder / ENCODED / POOL, _encode(pool, tokenizer, settings))
    write_encoded(folder / ENCODED / TARGETS, encoded_targets)
    untrained = target_losses(_adapted(settings), encoded_targets, tokenizer.pad_token_id)
    write_losses(
        folder,
        draw_halves(len(pool), settings.subsets, settings.seed),
        np.full((settings.subsets, len(targets)), np.nan, dtype=np.float32),
        np.full((settings.repeats, len(targets)), np.nan, dtype=np.float32),
    )
    note = StudyNote(settings=settings, untrained=untrained.tolist())
    (folder / NOTE).write_text(note.model_dump_json(indent=1))


def open_study(folder: Path, settings: StudySettings, config: RunConfig) -> Study:
    """The study in `folder`, begun if there is none; more subsets or repeats than it has are added to it."""
    if not (folder / NOTE).exists():
        start_study(folder, settings, config)
    study = read_study(folder)
    fixed = {"subsets", "repeats"}
    asked, had = settings.model_dump(exclude=fixed), study.settings.model_dump(exclude=fixed)
    differing = [f"{name} {had[name]} there, {asked[name]} asked for" for name in asked if asked[name] != had[name]]
    if differing:
        raise StudyError(f"{folder} holds another study: {'; '.join(differing)}. Use another folder")
    subsets, repeats = max(settings.subsets, len(study.losses)), max(settings.repeats, len(study.repeated))
    if (subsets, repeats) != (len(study.losses), len(study.repeated)):
        members = draw_halves(len(study.pool), subsets, settings.seed)
        write_losses(folder, members, _longer(study.losses, subsets), _longer(study.repeated, repeats))
        whole = study.settings.model_copy(update={"subsets": subsets, "repeats": repeats})
        note = StudyNote(settings=whole, untrained=study.untrained.tolist())
        (folder / NOTE).write_text(note.model_dump_json(indent=1))
        study = read_study(folder)
    return study


def warm_up(study: Study) -> None:
    """The pipeline's own warmup process on the whole pool, unless it is there."""
    settings, folder = study.settings, study.folder / WARMUP
    if len(study.checkpoints) == settings.checkpoints and (folder / "adapter").exists():
        return
    folder.mkdir(exist_ok=True)
    job = TrainJob(
        model=settings.model,
        data=study.folder / ENCODED / POOL,
        output=folder,
        seed=settings.seed,
        max_length=settings.max_length,
        lora=settings.lora,
        optimizer=settings.optimizer,
        checkpoints=settings.checkpoints,
        merge=False,
    )
    launch_training(job, None, "warmup")


def retrain_all(study: Study) -> None:
    """Every model that is missing, the repeats beside their first run; losses are written after each."""
    model = _adapted(study.settings)
    initial = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    pad_id = load_tokenizer(study.settings.model).pad_token_id
    runs = [(s, again) for s in range(len(study.losses)) for again in (0, 1) if s < len(study.repeated) or not again]
    waiting = [(s, again) for s, again in runs if not np.isfinite((study.losses, study.repeated)[again][s]).all()]
    for done, (s, again) in enumerate(waiting, start=1):
        started = time.perf_counter()
        rows = [study.pool[i] for i in np.flatnonzero(study.members[s])]
        train_adapter(model, initial, rows, pad_id, study.settings.optimizer, [study.settings.seed, 2, s, again])
        losses = target_losses(model, study.targets, pad_id)
        (study.losses, study.repeated)[again][s] = losses
        write_losses(study.folder, study.members, study.losses, study.repeated)
        seconds = time.perf_counter() - started
        which = f"subset {s}{' again' if again else ''}"
        print(f"{which}: mean target loss {losses.mean():.4f}, {seconds:.1f} s, {done} of {len(waiting)}", flush=True)


def train_adapter(
    model: Any,
    initial: Mapping[str, torch.Tensor],
    rows: Sequence[Encoded],
    pad_id: int,
    settings: OptimizerSettings,
    seed: Sequence[int],
) -> None:
    """Train `model`'s adapter from `initial` on `rows`, each row once per epoch in an order of its own.

    The warmup's loop (mean of the per-example losses of a batch, clipping, AdamW, schedule) without its mixture, which
    draws sources at random and would add noise of its own.
    """
    parameters = trainable(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(initial[name])
    rng = np.random.default_rng(list(seed))
    torch.manual_seed(int(rng.integers(2**31)))  # dropout
    epochs = math.ceil(settings.epochs)
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(epochs)])[: round(settings.epochs * len(rows))]
    batches = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=1e-8
    )
    rising = int(settings.warmup_ratio * len(batches))
    scheduler = get_scheduler(settings.schedule, optimizer, num_warmup_steps=rising, num_training_steps=len(batches))
    taps = find_taps(model)
    model.train()
    for batch in batches:
        batch_losses(model, [rows[i] for i in batch], pad_id, taps).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def target_losses(model: Any, targets: Sequence[Encoded], pad_id: int) -> np.ndarray:
    """(M,) float32 losses, nats per token."""
    losses = np.full(len(targets), np.nan, dtype=np.float32)
    taps = find_taps(model)
    model.eval()
    for places in token_budget_batches([len(row.input_ids) for row in targets], TOKENS_PER_BATCH):
        losses[places] = batch_losses(model, [targets[i] for i in places], pad_id, taps).cpu().numpy()
    return losses


def _adapted(settings: StudySettings) -> Any:
    return attach_lora(load_base(settings.model), settings.lora, settings.seed)


def _encode(examples: Sequence[Example], tokenizer: Any, settings: StudySettings) -> list[Encoded]:
    return encode_all(rows_to_encode(examples), tokenizer, settings.max_length)[0]


def _longer(losses: np.ndarray, count: int) -> np.ndarray:
    """`losses` (S, M) with rows of NaN up to `count`."""
    return np.concatenate([losses, np.full((count - len(losses), losses.shape[1]), np.nan, dtype=losses.dtype)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the study is kept")
    parser.add_argument(
        "--config", type=Path, default=Path("configs/demo.yaml"), help="model, data and warmup of a run"
    )
    parser.add_argument("--rows", type=int, default=400, help="pool rows")
    parser.add_argument("--subsets", type=int, default=80, help="random halves, one model each")
    parser.add_argument("--repeats", type=int, default=8, help="halves trained twice")
    parser.add_argument("--epochs", type=float, help="passes over each half (default: the warmup's)")
    given = parser.parse_args()
    try:
        config = load_config(given.config)
        optimizer = config.warmup.optimizer
        settings = StudySettings(
            model=config.model,
            max_length=config.max_length,
            seed=config.seed,
            rows=given.rows,
            subsets=given.subsets,
            repeats=min(given.repeats, given.subsets),
            checkpoints=config.warmup.checkpoints,
            lora=config.warmup.lora,
            optimizer=optimizer.model_copy(update={"epochs": given.epochs}) if given.epochs else optimizer,
        )
        study = open_study(given.folder, settings, config)
        warm_up(study)
        retrain_all(study)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.folder / LOSSES} holds {len(study.losses)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
