"""The cheap half of a linear datamodeling score: every scorer of `scorers.py` against the models of `retrain.py`.

    .venv/bin/python benchmarks/datamodeling/score.py FOLDER --output DIR      # ten minutes on one CPU core
    .venv/bin/python benchmarks/datamodeling/score.py FOLDER --output DIR --reuse    # seconds: with DIR's scores

Runs on whatever models the study has so far. Leaves in DIR `lds.md`, the tables below; `lds.json`, the same with every
target's correlation; `scores.npz`, the scores. What to look at: the default must beat BM25, which has seen no
model, and nothing cheaper should beat the default.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lds import Agreement, Interval, agreement, ceiling
from scorers import CONTROL, DEFAULT, SCORERS
from study import Study, StudyError, read_study

SCORES, TABLE, FIGURES = "scores.npz", "lds.md", "lds.json"
ROW_IDS = "row ids"  # beside the scores, so that another study's are not taken


def all_scores(study: Study, path: Path, reuse: bool) -> dict[str, np.ndarray]:
    """Scorer -> (n, M), all of `SCORERS`; those in `path` are taken from there if asked."""
    scores: dict[str, np.ndarray] = {}
    row_ids = np.array([row.id for row in [*study.pool, *study.targets]])
    if reuse and path.exists():
        with np.load(path) as arrays:
            if not np.array_equal(arrays[ROW_IDS], row_ids):
                raise StudyError(f"{path} has the scores of another study: leave --reuse out, or use another --output")
            scores = {name: arrays[name] for name in SCORERS if name in arrays}
    for name, scorer in SCORERS.items():
        if name not in scores:
            started = time.perf_counter()
            scores[name] = scorer(study)
            print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    np.savez(path, **{ROW_IDS: row_ids}, **scores)  # type: ignore[arg-type]  # numpy types the keywords as flags
    return scores


def markdown(study: Study, found: Agreement, models: int, top: float | None) -> str:
    """Both tables and a line on what they are of."""
    tasks = list(dict.fromkeys(study.capabilities))
    names = sorted(found.per_target, key=lambda name: -found.per_target[name].mean())
    lines = [
        f"Linear datamodeling score: {models} models, each trained on half of {len(study.pool)} rows; "
        f"{len(study.targets)} targets; 95 % bootstrap intervals over the models."
        + (
            f" By the models trained twice, a scorer that knows every expected loss would reach about {top:.2f}."
            if top
            else ""
        ),
        "",
        f"| scorer | LDS | minus {CONTROL} | minus {DEFAULT} (default) | {' | '.join(tasks)} |",
        f"|---|---|---|---|{'---:|' * len(tasks)}",
    ]
    for name in names:
        of_task = [found.per_target[name][[task == each for each in study.capabilities]].mean() for task in tasks]
        cells = [
            f"**{name}**" if name == DEFAULT else name,
            _text(found.mean(name)),
            "" if name == CONTROL else _text(found.difference(name, CONTROL), sign="+"),
            "" if name == DEFAULT else _text(found.difference(name, DEFAULT), sign="+"),
            *(f"{value:.3f}" for value in of_task),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *verdict(found, names)])


def verdict(found: Agreement, names: Sequence[str]) -> list[str]:
    """What the intervals say about the default, in sentences."""
    ahead = found.difference(DEFAULT, CONTROL)
    said = "beats" if ahead.low > 0 else "loses to" if ahead.high < 0 else "cannot be told from"
    better = [name for name in names if name != DEFAULT and found.difference(name, DEFAULT).low > 0]
    return [
        f"The default ({DEFAULT}) {said} {CONTROL}.",
        f"Better than the default: {', '.join(better)}." if better else "No scorer is better than the default.",
    ]


def figures(study: Study, found: Agreement, models: int, top: float | None) -> dict:
    return {
        "models": models,
        "rows": len(study.pool),
        "targets": [row.id for row in study.targets],
        "tasks": study.capabilities,
        "ceiling": top,
        "default": DEFAULT,
        "scorers": {
            name: {
                "lds": asdict(found.mean(name)),
                f"minus {CONTROL}": asdict(found.difference(name, CONTROL)),
                f"minus {DEFAULT}": asdict(found.difference(name, DEFAULT)),
                "per_target": [round(float(value), 6) for value in values],
            }
            for name, values in found.per_target.items()
        },
    }


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the study")
    parser.add_argument("--output", type=Path, required=True, help="where the tables and scores go")
    parser.add_argument("--reuse", action="store_true", help="take scores of an earlier call from --output")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws")
    given = parser.parse_args()
    try:
        study = read_study(given.folder)
        done = study.finished
        given.output.mkdir(parents=True, exist_ok=True)
        scores = all_scores(study, given.output / SCORES, given.reuse)
        found = agreement(
            scores, study.members[done], study.losses[done], resamples=given.resamples, seed=study.settings.seed
        )
        twice = np.flatnonzero(np.isfinite(study.repeated).all(axis=1) & done[: len(study.repeated)])
        top = ceiling(study.losses[done], study.losses[twice], study.repeated[twice])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = markdown(study, found, int(done.sum()), top)
    (given.output / TABLE).write_text(text + "\n")
    (given.output / FIGURES).write_text(json.dumps(figures(study, found, int(done.sum()), top), indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
