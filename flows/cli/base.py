"""What the commands share: options, how a configuration is loaded, and how an error ends a command."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.config import RunConfig

app = typer.Typer(
    help="Find the small, balanced part of an instruction pool worth training on, train on it, prove its worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[Path, typer.Argument(help="YAML run configuration", show_default=False)]
SetOption = Annotated[
    list[str], typer.Option("--set", help="override: a.b.c=value (YAML syntax); may be repeated", show_default=False)
]
DEFAULT_STORE = ".equipoise"
StoreOption = Annotated[str, typer.Option(help="the store that recorded the runs: folder or URL")]


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user can mend into one message and an exit code."""
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        from flows.errors import CONFIGURATION, exit_code

        code = exit_code(error)
        if code is None:
            raise
        kind = "configuration error" if code == CONFIGURATION else "run failed"
        typer.secho(f"{kind}: {error}", fg="red", err=True)
        raise typer.Exit(code) from None


class _NoTraceback(logging.Filter):
    """Keeps Prefect's tracebacks out of the terminal; they stay in the Prefect log, and we print one message."""

    def filter(self, record: logging.LogRecord) -> bool:
        failure = record.exc_info is not None or record.getMessage().startswith("Finished in state Failed")
        return not (failure and record.name.startswith("prefect"))


def _quiet_prefect() -> None:
    import prefect.logging.configuration
    from prefect.logging.handlers import PrefectConsoleHandler

    prefect.logging.configuration.setup_logging()
    for handler in logging.getLogger().handlers:  # where Prefect puts the one that writes to the terminal
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(_NoTraceback())


def load(config_path: Path, overrides: list[str]) -> RunConfig:
    """A checked configuration; what it names is opened too, so that a wrong name fails before any work starts."""
    from flows.config import load_config

    config = load_config(config_path, overrides)
    from flows.checks import checked

    checked(config)
    return config


@contextlib.contextmanager
def ready(config_path: Path, overrides: list[str], *, data: bool = True) -> Iterator[RunConfig]:
    """A checked configuration, and Prefect ready to run flows of it.

    data: False where pool and targets are not read, so that they may be out of reach.
    """
    from flows.config import load_config

    config = load_config(config_path, overrides)
    from flows.temporary_server import TemporaryServer

    server = TemporaryServer()
    from flows.checks import checked

    checked(config, data=data)
    _quiet_prefect()
    with server.ready():
        yield config


def named_folders(pairs: list[str], option: str) -> list[tuple[str, str]]:
    from flows.config import ConfigError

    folders = []
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not Path(folder).is_dir():
            raise ConfigError(f"{option} {pair!r}: expected name=folder with an existing folder")
        folders.append((name, folder))
    return folders
