"""The four files of a comparison, side by side in one folder: Markdown, CSV, JSON and the page.

Everything is made before anything is written, so that a failure leaves no half of a comparison beside an older one's.
"""

from __future__ import annotations

from pathlib import Path

from flows.comparison.page import render
from flows.comparison.text import to_csv, to_markdown
from flows.comparison.values import RunComparison
from flows.config import ConfigError

NAME = "comparison"


def write_comparison(found: RunComparison, folder: Path) -> dict[str, Path]:
    """Write all four, replacing those of an earlier comparison; kind -> path. Raises `ConfigError` where it cannot."""
    made = {
        "markdown": ("md", to_markdown(found)),
        "csv": ("csv", to_csv(found)),
        "json": ("json", found.model_dump_json(indent=1) + "\n"),
        "html": ("html", render(found)),
    }
    paths = {kind: folder / f"{NAME}.{suffix}" for kind, (suffix, _) in made.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, (_, text) in made.items():
            paths[kind].write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {folder}: cannot be written to ({error}); name another folder") from error
    return paths
