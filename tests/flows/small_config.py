"""The plain values of a small configuration, on files of one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def small_raw(folder: Path, *, model: Path, items: Path) -> dict[str, Any]:
    """`pool.jsonl` and `targets.jsonl` of `folder`, scored on `items`; outputs go to `folder/store`."""
    return {
        "name": "small",
        "store": str(folder / "store"),
        "model": str(model),
        "data": {
            "pool": [{"path": str(folder / "pool.jsonl")}],
            "targets": [{"path": str(folder / "targets.jsonl")}],
        },
        "evaluation": {"items": [str(items)]},
    }
