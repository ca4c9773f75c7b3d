"""Small values of everything that the report shows, for the tests of the page.

Two methods on two tasks, one with reasons and one without; `source` and the other names are where a test plants text
that a page must show and never run.
"""

from __future__ import annotations

import numpy as np

from curate.figures import FIGURES
from curate.records import Example, Message
from curate.selection.explain import SourceShare
from eval.compare import compare, scores_by_capability
from eval.tables import ACCURACY
from flows.config import validate
from flows.report.data import Arm, Pick, ReportData
from flows.store import StageOutput
from tests.flows.step_records import step_records

ENCODED = {
    "rows_in": 99,
    "rows": 98,
    "excluded_rows": 1,
    "tokens": 4000,
    "trained_tokens": 1000,
    "trained_share": 0.25,
    "lost_labels": 55,
    "lost_share": 0.052,
    "truncated_rows": 3,
    "findings": {"truncation removed the whole answer": 1, "end of turn not trained": 7},
}
EVIL = "<script>alert('source')</script>"


def config(tmp_path, **changes):
    (tmp_path / "any.parquet").write_text("")
    path = str(tmp_path / "any.parquet")
    return validate(
        {
            "name": "small",
            "model": str(tmp_path),
            "data": {"pool": [{"path": path}], "targets": [{"path": path}]},
            "evaluation": {"items": [path]},
            **changes,
        }
    )


def scores(shift, items=40):
    """One capability whose items are all `shift` better than the control's, and one that differs by noise alone."""
    noise = np.random.default_rng(0).normal(size=items)
    return {
        "math": {f"m{i}": 0.5 + shift + 0.01 * noise[i] for i in range(items)},
        "code": {f"c{i}": 0.5 + (noise[i] - noise.mean()) * (shift != 0) for i in range(items)},
    }


def comparison(metric=ACCURACY, shift=0.2, controls=("base", "random")):
    models = {"base": scores(0.0), "bids": scores(shift), "random": scores(0.0)}
    return compare([(metric, scores_by_capability(models))], list(controls), resamples=200, seed=1)


def described(math=0.31, code=-0.02, thi=(7, 3)):
    """What the analysis says of the balance of one row set."""
    counts = {"math": thi[0], "code": thi[1]}
    ratio = thi[0] / thi[1] if thi[1] else None
    return {
        "rows": sum(thi),
        "aid_per_task": {"math": math, "code": code},
        "aid_between_task_std": abs(math - code) / 2,
        "aid_lowest_target": code - 0.1,
        "aid_highest_target": math + 0.1,
        "thi_instance": counts,
        "thi_ratio": ratio,
        "thi_ratios": {"raw": {"task_mean": ratio}},
    }


def method_analysis(name):
    drawn = name == "bids"
    curve = [[rank, 2.0 - 0.1 * rank] for rank in range(1, 13)] if drawn else []
    per_task = {"math": [0.5, 0.4, 0.3], "code": [0.0, 0.1, 0.2]}
    return {
        **described(),
        "coverage": {"budgets": [1, 2, 3], "recall": per_task, "reached": per_task, "influence": per_task},
        "utility": {
            "curve": curve,
            "suggested": {"rows": 8 if drawn else None, "start": 1.9 if drawn else None, "reason": "because"},
        },
        "last_utility": 1.0 if drawn else None,
        "near_misses": [{"id": "near", "source": "trivia", "gap": 0.987, "target": "t9", "task": "code"}] * drawn,
        "confidence": {
            "resamples": 50,
            "reason": "",
            "by_chance": 0.1,
            "overlap": {"mean": 0.771, "low": 0.69, "high": 0.84},
            "jaccard": {"mean": 0.63, "low": 0.53, "high": 0.73},
        }
        if drawn
        else {"resamples": 0, "reason": "the method does not look at the targets"},
    }


def conversation(row, source="trivia", question="What is 2 + 2?", answer="4", license="MIT"):
    turns = (Message("user", question), Message("assistant", answer))
    return Example(row, source, turns, license, "math", f"pool.jsonl:{row}")


def report_data(tmp_path, source="trivia", compared=None, **changes):
    shares = [SourceShare(source, 90, 4, 0.9, 0.4), SourceShare("maths & more", 10, 6, 0.1, 0.6)]
    arms = [
        Arm(
            name=name,
            shares=shares,
            tasks=["math", "code", "math"] if name == "bids" else [None] * 3,
            picks=[
                Pick("row-1", source, "t1", "math", 2.0, 0.86, [("row-2", 0.61)])
                if name == "bids"
                else Pick("row-7", source, None, None, None, None, [])
            ],
            analysis=method_analysis(name),
            confidence=(np.array([1.0, 0.3, 0.0]), np.array([True, False, False])) if name == "bids" else None,
            mixture=step_records(4, source),
            losses=[(1, 2.5), (4, 2.1)],
        )
        for name in ("bids", "random")
    ]
    stages = {
        name: StageOutput(name.partition("-")[0], f"key-{name}", tmp_path / name, False, 1.5, rows)
        for name, rows in {
            "ingest": {"rows_in": 106, "rows_out": 100, "targets": 5, "rejected": 1},
            "clean": {"rows_in": 100, "rows_out": 99, "exact_duplicates": 1},
            "encode": {"rows_in": 99, "rows_out": 98, "excluded": 1},
            "attribution": {"rows_in": 98, "rows_out": 97, "excluded": 1},
            **{f"select-{arm.name}": {"rows_in": 97, "rows_out": 10, "not_selected": 87} for arm in arms},
            **{f"export-{arm.name}": {"rows_in": 10, "rows_out": 10} for arm in arms},
        }.items()
    }
    rate = {"by": "source", "seen": 30, "removed": 9, "rate": 0.3, "rate_of_others": 0.02, "p_value": 0.0001}
    step = {"seen": 100, "rate": 0.1, "changed": 0, "masked": {}}
    filters = [
        {**step, "filter": "exact_duplicates", "removed": 1, "groups": [{**rate, "group": "x", "flagged": False}]},
        {
            **step,
            "filter": "toxicity",
            "removed": 10,
            "changed": 4,
            "groups": [
                {**rate, "group": source, "ratio": 15.0, "flagged": True},
                {**rate, "group": "maths & more", "ratio": None, "rate": 0.2, "flagged": True},
            ],
        },
        {**step, "filter": "quality", "removed": 0, "groups": []},
    ]
    spread = {
        "bids": described(),
        "random": described(0.01, 0.0),
        "instance_max": described(0.9, -0.1, (10, 0)),
        "instance_max_normalized": described(0.5, 0.0),
    }
    values = {
        "config": config(tmp_path),
        "stages": stages,
        "arms": arms,
        "analysis": {
            "tasks": ["math", "code"],
            "pool": described(0.0, 0.0, (60, 40)),
            "influence_by_source": {source: {"math": 0.4, "code": -0.1}, "maths & more": {"math": 1.2, "code": 0.0}},
            "spread": {
                "methods": spread,
                "claimed_order": ["instance_max", "instance_max_normalized", "bids"],
                "falls": True,
            },
        },
        "trust": {
            "split_half": {"math": 0.91, "code": -0.2},
            "checkpoints": [[1.0, 0.86, 0.7], [0.86, 1.0, 0.93], [0.7, 0.93, 1.0]],
            "projection": [None, None, None],
            "out_of_memory": 0,
        },
        "comparison": compared or comparison(),
        "engine": {"backend": "vllm", "device": "cpu", "dtype": "bfloat16"},
        "audit": {"pool": {**ENCODED, "sources": {source: ENCODED}}},
        "figures": {
            "sizes": {"rows": 5, "words": 700, "bytes": 9000, "embedded_rows": 4},
            "draws": 20,
            "rows": {name: {"all": 98, "counted": 98, "read": 8} for name in ("pool", "bids", "random")},
            "figures": {
                **{figure.name: {} for figure in FIGURES},
                "refusals": {name: [0.125, 0.05, 0.25] for name in ("pool", "bids", "random")},
                "ifd": {"pool": [0.8125, 0.75, 0.875], "bids": [0.9375, 0.875, 1.0]},
            },
        },
        "rejected": [{"origin": f"{source}.jsonl:3", "id": "", "reason": f"no {source} turn", "excerpt": ""}],
        "conversations": {row: conversation(row, source) for row in ("row-1", "row-7")},
        "cleaning": {"flags": {"ratio": 2.0, "alpha": 0.01}, "filters": filters},
        "removed": [{"id": "a", "source": source, "filter": "exact_duplicates", "reason": "same", "matched_id": "b"}],
    }
    return ReportData(**(values | changes))
