"""The `equipoise` command. Nothing heavy is imported before a command needs it, so that `--help` answers at once.

Exit codes: 0 done, 2 a configuration that cannot work (wrong key, missing file, unknown model), 1 a run that failed. A
mistake of the user's gets one message that names the thing and the remedy; a traceback means a bug of ours.
"""

from __future__ import annotations

import sys

from flows.cli import running, standalone  # noqa: F401  # their import adds the commands
from flows.cli.base import app

__all__ = ["app", "main"]


def main() -> None:
    sys.exit(app())
