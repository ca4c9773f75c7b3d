"""Prefect flows, run configuration, stage store, command line and report: the only floor that knows Prefect."""

import os

# before Prefect is imported, whichever module does it: its temporary server needs more than 20 s on a small machine
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
