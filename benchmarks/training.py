"""What balanced training costs beside the plain trainer, and what it buys, on the embedded model in one run.

    PYTHONPATH=. .venv/bin/python benchmarks/training.py --rounds 8            # time and memory, about 10 minutes
    PYTHONPATH=. .venv/bin/python benchmarks/training.py --heldout 30          # loss after equal time, about 20 minutes

Time: every arm does one step of a round, then the next; each is divided by the plain step of the same round, and the
medians are printed. Memory: a process for each arm, its peak during one step above what it held before. The cost model
is the spec's (coreset, section 11) with this adapter's own costs: the base is frozen, so a trained example costs what a
plain step costs, not three forward passes. Held-out loss: three seeds, mean over sources of rows that no arm trains on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from transformers import TrainingArguments
from transformers.utils import logging

from train.encoding import Encoded, encode_all
from train.forward import batch_losses
from train.mixture import CooldownSchedule, MixtureSampler
from train.models import attach_lora, load_base, load_tokenizer
from train.selection_pass import SelectionPass, directions, last_layer_features, spsa_features
from train.settings import CoresetSettings, LoraSettings, ReweightingSettings
from train.trainer import BalancedTrainer

DEMO = Path(__file__).parent.parent / "demo"
POOL, STEPS, MAX_LENGTH = 128, 400, 256
REWEIGHTING = ReweightingSettings(burn_in=0.0)
ARMS: dict[str, dict] = {
    "plain, 128": {},
    "+ mixture (other rows)": {"cooldown": True},
    "+ reweighting": {"reweighting": REWEIGHTING},
    "+ coreset 64 of 128, random": {"coreset": CoresetSettings(feature="random")},
    "+ coreset 64 of 128, spsa m = 1": {"coreset": CoresetSettings(feature="spsa")},
    "+ coreset 64 of 128, last_layer": {"coreset": CoresetSettings()},
    "all three (last_layer)": {"cooldown": True, "reweighting": REWEIGHTING, "coreset": CoresetSettings()},
    "plain, 64": {"pool": 64},
    "plain, 128 in two of 64": {"micro_batch_size": 64},
}


def demo_rows() -> list[Encoded]:
    tokenizer = load_tokenizer(str(DEMO / "model"))
    return encode_all(pq.read_table(DEMO / "data/pool.parquet").to_pylist(), tokenizer, MAX_LENGTH)[0]


def make_trainer(
    rows: list[Encoded], *, pool: int = POOL, cooldown: bool = False, seed: int = 0, steps: int = STEPS, **parts
) -> BalancedTrainer:
    path = str(DEMO / "model")
    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, learning_rate=1e-3, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True, logging_strategy="no", dataloader_pin_memory=False, seed=seed,
    )  # fmt: skip
    schedule = CooldownSchedule(5.0 if cooldown else 1.0, 1.0)
    mixture = MixtureSampler([row.source for row in rows], pool, steps, schedule, seed)
    return BalancedTrainer(
        model=attach_lora(load_base(path, device="cpu"), LoraSettings(), seed), args=arguments,
        processing_class=load_tokenizer(path), rows=rows, mixture=mixture, total_steps=steps, seed=seed,
        log_path=Path(folder) / "steps.jsonl", **parts,
    )  # fmt: skip


class Stepper:
    """One arm, a step at a time: what `Trainer.train` does around `training_step`, without its bookkeeping."""

    def __init__(self, trainer: BalancedTrainer) -> None:
        self.trainer, self.step = trainer, 0
        self.optimizer = torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], lr=1e-3)
        trainer.state.global_step = 0

    def __call__(self, clock: Callable[[], float] = time.perf_counter) -> float:
        begun = clock()
        self.trainer.training_step(self.trainer.model, {"step": self.step})
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.trainer.state.global_step = self.step
        return clock() - begun


def times(rows: list[Encoded], rounds: int) -> dict[str, list[float]]:
    arms = {name: Stepper(make_trainer(rows, **parts)) for name, parts in ARMS.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    overhead: dict[str, list[float]] = defaultdict(list)
    for k in range(rounds + 1):
        order = list(arms)
        for name in order[k % len(order) :] + order[: k % len(order)]:  # no arm always follows the same one
            arm = arms[name]
            arm.trainer.seconds.clear()
            took = arm()
            if k:  # the first step allocates
                seconds[name].append(took)
                phases = arm.trainer.seconds
                overhead[name].append((took - phases["backward"] - phases.get("weights", 0.0)) / took)
        print(f"round {k}", file=sys.stderr, flush=True)
    for name, shares in overhead.items():
        print(f"outside forward and backward passes: {name}: {100 * statistics.median(shares):.2f} %", file=sys.stderr)
    return seconds


def pass_costs(rows: list[Encoded], rounds: int) -> dict[str, float]:
    """Seconds per row of one forward pass without a graph, and of the feature passes over the same rows (medians)."""
    model = attach_lora(load_base(str(DEMO / "model"), device="cpu"), LoraSettings(), 0)
    selection = SelectionPass(model, int(load_tokenizer(str(DEMO / "model")).pad_token_id))
    along = directions(tuple(selection.value_map.module.weight.shape), 1, 0)
    part = sorted(rows, key=lambda row: len(row.input_ids))[:: len(rows) // POOL][:POOL]

    def forward() -> None:
        with torch.no_grad():
            for positions in range(0, POOL, 32):
                batch_losses(model, part[positions : positions + 32], 0, "cpu", model.get_output_embeddings())

    ways = {
        "forward": forward,
        "spsa": lambda: spsa_features(selection, part, along),
        "last_layer": lambda: last_layer_features(selection, part),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for k in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if k:
                seconds[name].append((time.perf_counter() - begun) / POOL)
    return {name: statistics.median(each) for name, each in seconds.items()}


def peak_mib(arm: str) -> float:
    """Peak memory of one step above what the process held before it, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--memory-of", arm], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory_of(arm: str) -> None:
    rows = demo_rows()
    longest = sorted(rows, key=lambda row: -len(row.input_ids))[:1024]
    stepper = Stepper(make_trainer(longest, **ARMS[arm]))
    before = psutil.Process().memory_info().rss
    stepper()
    # not getrusage: its peak starts at what the parent held when it forked
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 2**10 - before / 2**20)


def table(rows: list[Encoded], rounds: int) -> None:
    seconds = times(rows, rounds)
    memory = {name: peak_mib(name) for name in ARMS}
    plain = seconds["plain, 128"]
    print("| arm | s per step | time / plain 128 | peak MiB of a step | memory / plain 128 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, each in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(each, plain, strict=True))
        print(
            f"| {name} | {statistics.median(each):.2f} | {ratio:.3f} | {memory[name]:.0f} | "
            f"{memory[name] / memory['plain, 128']:.2f} |"
        )
    costs = pass_costs(rows, rounds)
    # the control trains rows of the same make-up: kept sources have longer rows than the average
    forward, trained = costs["forward"], statistics.median(seconds["+ coreset 64 of 128, random"]) / 64
    share = 1.0 - small_share(rows)
    print(
        f"\nforward pass {1e3 * forward:.1f} ms a row, trained row {1e3 * trained:.1f} ms, forwarded share {share:.2f}"
    )
    for feature in ("spsa", "last_layer"):
        name = next(n for n in ARMS if n.startswith("+") and feature in n)
        replay = costs[feature] / forward - 1
        model = share * POOL * forward * (1 + replay) + 64 * trained
        print(f"{feature}: s = {replay:.2f}; measured / cost model {statistics.median(seconds[name]) / model:.2f}")


def small_share(rows: list[Encoded]) -> float:
    """Share of a proportional pool that the keep rule never forwards."""
    sizes = np.unique([row.source for row in rows], return_counts=True)[1]
    return float(sizes[sizes < sizes.mean()].sum() / sizes.sum())


def heldout(rows: list[Encoded], steps: int) -> None:
    """Loss of unseen rows (mean over sources) after as much time as the slowest arm's `steps` steps take."""
    train, unseen = split(rows)
    arms = {
        "plain, 64": {"pool": 64},
        "plain, 32": {"pool": 32},
        "random, 32 of 64": {"pool": 64, "coreset": CoresetSettings(feature="random")},
        "last_layer, 32 of 64": {"pool": 64, "coreset": CoresetSettings()},
        "reweighting, 64": {"pool": 64, "reweighting": REWEIGHTING},
        "cooldown, 64": {"pool": 64, "cooldown": True},
    }
    curves: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
    for seed in range(3):
        for name, parts in arms.items():
            stepper, spent, curve = Stepper(make_trainer(train, seed=seed, steps=steps, **parts)), 0.0, []
            for k in range(steps):
                spent += stepper(time.process_time) / torch.get_num_threads()  # whatever else runs beside
                if (k + 1) % max(1, steps // 6) == 0:
                    curve.append((spent, unseen_loss(stepper.trainer, unseen)))
            curves[name].append(curve)
            print(f"seed {seed} {name}: {curve[-1][1]:.4f} after {spent:.0f} s", file=sys.stderr, flush=True)
    budget = min(curve[-1][0] for runs in curves.values() for curve in runs)
    print(f"| arm | loss after {steps} steps, mean of 3 seeds (min, max) | loss after {budget:.0f} s |")
    print("| --- | --- | --- |")
    for name, runs in curves.items():
        last = [curve[-1][1] for curve in runs]
        at_budget = [float(np.interp(budget, *zip(*curve, strict=True))) for curve in runs]
        cells = [f"{np.mean(v):.4f} ({min(v):.4f}, {max(v):.4f})" for v in (last, at_budget)]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    print(json.dumps(curves), file=sys.stderr)


def split(rows: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """All but twelve rows of each source, and those."""
    by_source: dict[str, list[Encoded]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    unseen = [row for each in by_source.values() for row in each[:12]]
    taken = {row.id for row in unseen}
    return [row for row in rows if row.id not in taken], unseen


def unseen_loss(trainer: BalancedTrainer, rows: list[Encoded]) -> float:
    model = trainer.model.eval()
    losses: dict[str, list[float]] = defaultdict(list)
    with torch.no_grad():
        for start in range(0, len(rows), 48):
            part = rows[start : start + 48]
            values = batch_losses(model, part, 0, "cpu", model.get_output_embeddings())
            for row, value in zip(part, values.tolist(), strict=True):
                losses[row.source].append(value)
    return statistics.mean(statistics.mean(each) for each in losses.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--heldout", type=int, default=0, metavar="STEPS")
    parser.add_argument("--memory-of", choices=list(ARMS))
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.memory_of:
        with contextlib.redirect_stderr(io.StringIO()):
            memory_of(options.memory_of)
        return
    rows = demo_rows()
    if options.rounds:
        table(rows, options.rounds)
    if options.heldout:
        heldout(rows, options.heldout)


if __name__ == "__main__":
    main()
