"""Which exceptions are the user's to mend, and with which exit code the command ends."""

from __future__ import annotations

CONFIGURATION, FAILED = 2, 1


def exit_code(error: Exception) -> int | None:
    """2 for settings that cannot work, 1 for a run that failed for a stated reason, None for a bug of ours.

    Our own errors are ValueErrors or RuntimeErrors whose message names the thing and the remedy.
    """
    # imported late, so that the command line starts without them
    from curate.export.licenses import LicenseError
    from curate.records import DataError
    from curate.sources import SourceError, TooManyRejectedError
    from eval.items import ItemError
    from flows.config import ConfigError
    from flows.process import ProcessError
    from flows.store import StoreError

    if isinstance(error, TooManyRejectedError):
        return FAILED
    if isinstance(error, ConfigError | SourceError | ItemError | LicenseError):
        return CONFIGURATION
    if isinstance(error, DataError):
        return FAILED
    from train.models import ModelError  # seconds of imports, which a mistake in the configuration need not wait for

    if isinstance(error, ModelError):
        return CONFIGURATION
    if isinstance(error, ValueError | OSError | ProcessError | StoreError):
        return FAILED
    return None
