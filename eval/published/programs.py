"""The published code benchmarks' rows in the form that our `code` scorer reads: what to run a program against."""

from __future__ import annotations

import json
from typing import Any


def humaneval(dataset: Any) -> Any:
    """Adds `id` and `checks` to rows of openai/openai_humaneval."""
    return dataset.map(
        lambda row: {
            "id": row["task_id"],
            "checks": json.dumps({"kind": "humaneval", "test": row["test"], "entry_point": row["entry_point"]}),
        }
    )


def mbpp(dataset: Any) -> Any:
    """Adds `id` and `checks` to rows of google-research-datasets/mbpp, configuration full."""
    return dataset.map(
        lambda row: {
            "id": str(row["task_id"]),
            "checks": json.dumps(
                {"kind": "mbpp", "test_list": row["test_list"], "test_imports": [row.get("test_setup_code") or ""]}
            ),
        }
    )
