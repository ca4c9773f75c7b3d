"""Which scores select well: choose with one half of the targets, train, and measure the loss of the other half.

    .venv/bin/python benchmarks/datamodeling/held_out_targets.py ENCODED NAME=SCORES ... [--output JSON]

The datamodeling score judges sums over random halves of a pool; a selection takes the tail. So: for each score folder
(of a run's attribution or similarity stage) and each fold of the targets, BIDS selects with the fold's columns alone,
the warmup's recipe trains a fresh adapter on the selection, and the other targets' losses are what counts. Random
selections of the same size are the control. No evaluation item is looked at, so settings may be chosen by this. About
a minute per score and fold on 2 CPU cores. ENCODED is a run's encode stage.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from retrain import target_losses, train_adapter

from curate.scores import read_scores
from curate.selection import bids
from flows.config import load_config
from train.encoding import read_encoded
from train.models import attach_lora, load_base, load_tokenizer, trainable

FOLDS, RESAMPLES = 2, 2000
RANDOM = "random"


def target_folds(tasks: list[str], seed: int) -> np.ndarray:
    """(M,) fold of every target, every task split evenly."""
    rng = np.random.default_rng([seed, 21])
    folds = np.zeros(len(tasks), dtype=int)
    for task in sorted(set(tasks)):
        places = rng.permutation([i for i, name in enumerate(tasks) if name == task])
        folds[places] = np.arange(len(places)) % FOLDS
    return folds


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over targets."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoded", type=Path, help="encode stage of a run: pool.parquet and targets.parquet")
    parser.add_argument("scores", nargs="+", help="NAME=FOLDER, a score folder of that run")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--budget", type=float, default=0.1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    config = load_config(given.config)
    pool = {row.id: row for row in read_encoded(given.encoded / "pool.parquet")}
    targets = read_encoded(given.encoded / "targets.parquet")
    matrices = {name: read_scores(Path(folder)) for name, _, folder in (each.partition("=") for each in given.scores)}
    first = next(iter(matrices.values()))
    task_of = dict(zip(first.column_ids, first.tasks, strict=True))
    tasks = [task_of[target.id] for target in targets]
    folds = target_folds(tasks, config.seed)
    model = attach_lora(load_base(config.model), config.warmup.lora, config.seed)
    initial = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    pad_id = load_tokenizer(config.model).pad_token_id

    losses = {name: np.full(len(targets), np.nan) for name in (RANDOM, *matrices)}
    for fold in range(FOLDS):
        shown = {target.id for target, mine in zip(targets, folds, strict=True) if mine == fold}
        judged = np.flatnonzero(folds != fold)
        for name in losses:
            matrix = matrices.get(name)
            if matrix is None:
                rng = np.random.default_rng([config.seed, 22, fold])
                ids = list(rng.permutation(list(pool))[: int(given.budget * len(pool))])
            else:
                columns = [j for j, column in enumerate(matrix.column_ids) if column in shown]
                chosen = bids(np.asarray(matrix.values)[:, columns], given.budget)
                ids = [matrix.row_ids[row] for row in chosen.order]
            rows = [pool[row] for row in ids]
            train_adapter(model, initial, rows, pad_id, config.warmup.optimizer, [config.seed, 23, fold])
            losses[name][judged] = target_losses(model, [targets[i] for i in judged], pad_id)
            print(f"fold {fold}, {name}: {losses[name][judged].mean():.4f}", flush=True)

    names = list(dict.fromkeys(tasks))
    labels = np.array(tasks)
    print(f"\n| scores | loss of unseen targets | minus random [95 %] | {' | '.join(names)} |")
    print("| --- | --- | --- |" + " --- |" * len(names))
    found = {}
    for name, values in losses.items():
        difference = values - losses[RANDOM]
        mean, low, high = interval(difference)
        cells = [float(difference[labels == task].mean()) for task in names]
        found[name] = {
            "loss": float(values.mean()),
            "minus_random": [mean, low, high],
            "tasks": dict(zip(names, cells, strict=True)),
        }
        print(
            f"| {name} | {values.mean():.3f} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | "
            f"{' | '.join(f'{cell:+.3f}' for cell in cells)} |"
        )
    if given.output:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
