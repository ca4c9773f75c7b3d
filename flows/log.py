"""Where stages tell a person what they found: Prefect's own logger, so that the terminal of a run shows it. It is not
that of the run, which there is none of outside a run."""

from __future__ import annotations

import logging

logger = logging.getLogger("prefect.equipoise")
