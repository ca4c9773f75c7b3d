"""The `equipoise` command. Nothing heavy is imported before a command needs it, so that `--help` answers at once.

Exit codes: 0 done, 2 a configuration that cannot work (wrong key, missing file, unknown model), 1 a run that failed. A
mistake of the user's gets one message that names the thing and the remedy; a traceback means a bug of ours.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
DEMO_CONFIG = Path("configs/demo.yaml")
DEFAULT_STORE = ".equipoise"
StoreOption = Annotated[str, typer.Option(help="the store that recorded the runs: folder or URL")]


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
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


def _load(config_path: Path, overrides: list[str], *, data: bool = True) -> RunConfig:
    """A checked configuration; what it names is opened too, so that a wrong name fails before any work starts.

    data: False where pool and targets are not read, so that they may be out of reach.
    """
    from flows.config import load_config

    config = load_config(config_path, overrides)
    from flows.checks import checked

    checked(config, data=data)
    return config


def _run_pipeline(config_path: Path, overrides: list[str]) -> None:
    with _user_errors():
        config = _load(config_path, overrides)
        from flows import console
        from flows.pipeline import pipeline_flow

        _quiet_prefect()
        console.show_result(pipeline_flow(config))


@app.command()
def run(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006  # typer reads the default only
    """Run the whole pipeline; prints the tables and where the outputs are."""
    _run_pipeline(config, overrides)


@app.command()
def demo(overrides: SetOption = []) -> None:  # noqa: B006
    """Run the pipeline on the embedded model and data (from a clone of the repository)."""
    _run_pipeline(DEMO_CONFIG, overrides)


@app.command()
def nightly(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Run the pipeline on tonight's pool; the new adapter goes live unless a capability got worse."""
    with _user_errors():
        checked = _load(config, overrides)
        from flows import console
        from flows.nightly.files import promoted_folder
        from flows.nightly.flow import nightly_flow
        from flows.nightly.show import show_night
        from flows.store import open_store

        _quiet_prefect()
        night = nightly_flow(checked)
        show_night(night, console.console)
        folder = promoted_folder(open_store(checked.store, checked.store_cache).root, checked.name)
        if night.live:
            console.show_paths({name: str(folder / name) for name in ("adapter", "dataset")})


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="name of the nightly runs", show_default=False)],
    night: Annotated[int | None, typer.Argument(help="number of one night: what changed, and why")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the records")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """The nights of a name: what was promoted or refused and why, and what changed in the selection."""
    with _user_errors():
        from rich.console import Console

        from flows.nightly import show
        from flows.nightly.history import History
        from flows.store import open_store

        found = History(open_store(store), name)
        nights = found.nights() if night is None else [found.read(night)]
        if as_json:
            typer.echo(show.as_json(nights))
        elif night is None:
            show.show_nights(nights, Console())
        else:
            show.show_night(nights[0], Console())


@app.command()
def validate(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Dry run: every error at once, and an estimate of time, memory and disk for every stage."""
    with _user_errors():
        from flows.config import load_config

        settings = load_config(config, overrides)
        from flows import console
        from flows.checks import checked
        from flows.estimate import costs, measure, measure_workload
        from flows.stages.guard import told_before

        found = checked(settings)
        leakage = told_before(settings)
        typer.echo(f"{config} is valid.")
        typer.echo(leakage)
        work = measure_workload(settings, found)
        speed = measure(settings, work.parameters, work.sample)
        shape = found.model.config
        expected = costs(settings, work, speed, shape.num_hidden_layers, shape.hidden_size)
        console.show_estimate(settings, work, speed, expected)


@app.command()
def curate(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Read, clean, attribute, select and export; no fine-tuning."""
    with _user_errors():
        checked = _load(config, overrides)
        from flows import console
        from flows.pipeline import curate_flow

        _quiet_prefect()
        curated = curate_flow(checked)
        console.show_stages(curated.stages)
        console.show_paths({f"dataset {name}": path for name, path in curated.datasets.items()})


@app.command()
def train(
    config: ConfigArgument,
    dataset: Annotated[
        list[str], typer.Option("--dataset", help="name=folder of an exported dataset; may be repeated")
    ],
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Fine-tune one adapter per dataset folder."""
    with _user_errors():
        checked = _load(config, overrides, data=False)
        from flows import console
        from flows.pipeline import finetune_flow

        _quiet_prefect()
        tuned = finetune_flow(checked, dict(_pairs(dataset, "--dataset")))
        console.show_stages(tuned)
        console.show_paths({f"adapter {name}": str(output.path / "adapter") for name, output in tuned.items()})


@app.command()
def select(
    scores: Annotated[Path, typer.Argument(help="matrix (.npy, .parquet, .safetensors) or score folder")],
    output: Annotated[Path, typer.Option(help="Parquet file to write")],
    rows: Annotated[Path | None, typer.Option(help="table of the rows: id, optionally source and tokens")] = None,
    columns: Annotated[Path | None, typer.Option(help="table of the columns: id and task")] = None,
    method: Annotated[str, typer.Option(help="selection method")] = "bids",
    budget: Annotated[str, typer.Option(help="rows to select: a whole number, or a fraction of them")] = "0.1",
    tokens: Annotated[bool, typer.Option("--tokens", help="the budget counts tokens, from the rows table")] = False,
    seed: Annotated[int, typer.Option(min=0, help="seed of the methods that draw")] = 0,
) -> None:
    """Select from any score matrix and its tables (Parquet, CSV or JSONL), without a model."""
    with _user_errors():
        from rich.console import Console

        from flows.select_scores import select_scores, show_selected

        selected = select_scores(
            scores, output=output, rows=rows, columns=columns, method=method, budget=budget, tokens=tokens, seed=seed
        )
        for note in selected.notes:
            typer.secho(f"warning: {note}", fg="yellow", err=True)
        show_selected(selected, Console())
        typer.echo(output)


@app.command()
def trace(
    config: ConfigArgument,
    examples: Annotated[Path, typer.Argument(help="file of conversations to ask about", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="pool rows per example")] = 5,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Which pool rows matter most for these examples, from the gradients a run has stored (influence.mode sketch)."""
    with _user_errors():
        checked = _load(config, overrides)
        from flows import console
        from flows.trace import trace as find

        console.show_traced(find(checked, examples, top))


@app.command("eval")
def evaluate(
    config: ConfigArgument,
    model: Annotated[
        list[str],
        typer.Option(
            "--model", help="name=folder of a whole model or an adapter; repeat a name for each training seed"
        ),
    ],
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset", help="name=folder of an exported dataset they were trained on, for the leakage guard"
        ),
    ] = [],  # noqa: B006
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Evaluate the base model and every model folder on the same items."""
    with _user_errors():
        checked = _load(config, overrides, data=False)
        from flows import console
        from flows.pipeline import evaluate_flow
        from flows.stages.evaluation import read_results

        _quiet_prefect()
        folders: dict[str, list[str]] = {}
        for name, folder in _pairs(model, "--model"):
            folders.setdefault(name, []).append(folder)
        output = evaluate_flow(checked, folders, dict(_pairs(dataset, "--dataset")))
        console.show_comparison(read_results(output.path))
        console.show_paths({"results": str(output.path)})


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="a run's record, its name, or name@time", show_default=False)],
    output: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report.html"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Draw the report of a finished run again, from what the store holds of it."""
    with _user_errors():
        from flows.config import validate as checked
        from flows.report.data import read_report
        from flows.report.page import render
        from flows.runs import find_run

        found = find_run(run, store)
        found.check()
        page = render(read_report(checked(found.config, str(found.record)), found.stages))
        output.write_text(page, encoding="utf-8")
        typer.echo(output)


@app.command()
def lineage(
    row: Annotated[str, typer.Argument(help="id of a row, or FILE:LINE where it was read", show_default=False)],
    run: Annotated[
        str | None,
        typer.Option(help="a run's record, its name, or name@time", show_default="the store's only run"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as JSON, with all figures")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """One row's whole story in a finished run: from file and line to its export or its removal."""
    with _user_errors():
        from rich.console import Console

        from flows.lineage.show import as_json, show
        from flows.lineage.story import stories
        from flows.runs import find_run, only_run

        told = stories(find_run(run, store) if run else only_run(store), row)
        if json:
            typer.echo(as_json(told))
        else:
            show(told, Console())


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="records of runs, their names, or name@time", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="folder to write Markdown, CSV, JSON and HTML into")] = Path(
        "comparison"
    ),
    control: Annotated[
        str | None,
        typer.Option(
            help="arm (run:method, or a method) that the others are compared with, beside base",
            show_default="first arm of the first run",
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """One table and one page for any number of runs: what differs in configuration, data, training and results."""
    with _user_errors():
        from flows.comparison.differences import compare_runs
        from flows.comparison.files import write_comparison

        found = compare_runs(runs, store, control=control)
        written = write_comparison(found, output)
        typer.echo(written["markdown"].read_text(encoding="utf-8"))
        for path in written.values():
            typer.echo(path)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="folder of an exported dataset", show_default=False)],
    repo: Annotated[str, typer.Argument(help="dataset on the Hugging Face hub: owner/name", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="make it visible to everyone")] = False,
    revision: Annotated[str | None, typer.Option(help="branch, made where there is none")] = None,
    allow_license: Annotated[
        list[str],
        typer.Option(
            help="licence to upload although its terms forbid it or are not known; may be repeated", show_default=False
        ),
    ] = [],  # noqa: B006
) -> None:
    """Upload an exported dataset to the hub, private unless --public (token: HF_TOKEN or `hf auth login`)."""
    with _user_errors():
        from curate.export.push import push_to_hub

        typer.echo(push_to_hub(folder, repo, public=public, revision=revision, allow_licenses=allow_license))


@app.command()
def gc(
    store: StoreOption = DEFAULT_STORE,
    keep: Annotated[
        int | None, typer.Option(min=1, help="latest runs of each name to keep", show_default="all")
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(min=0, help="keep runs that ended in these last days", show_default="all")
    ] = None,
    unrecorded_days: Annotated[
        float, typer.Option(min=0, help="how long to keep what no recorded run refers to, since its last use")
    ] = 14.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would go (the default)")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove it")] = False,
) -> None:
    """Show or remove what no kept run of a store refers to: outputs, leftovers of interrupted runs, feature shards."""
    with _user_errors():
        from flows.gc import collect

        remove = yes and not dry_run
        found = collect(store, keep=keep, keep_days=keep_days, unrecorded_days=unrecorded_days, remove=remove)
        typer.echo(found.in_words(remove))


@app.command()
def serve(
    config: ConfigArgument,
    cron: Annotated[
        str | None, typer.Option(help="schedule, for example '0 2 * * *'", show_default="started by hand only")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="in which the schedule is meant", show_default="UTC")] = None,
    limit: Annotated[int, typer.Option(min=1, help="runs at the same time")] = 1,
    flow: Annotated[Literal["pipeline", "nightly"], typer.Option(help="what the schedule starts")] = "pipeline",
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Serve pipeline, nightly and curate as Prefect deployments, on a schedule or started in the UI (needs
    PREFECT_API_URL)."""
    with _user_errors():
        checked = _load(config, overrides)
        from flows.deploy import serve_flows

        serve_flows(checked, cron, timezone, limit, flow)


@app.command()
def doctor() -> None:
    """What this machine can do, and what is missing."""
    from flows.doctor import diagnose

    healthy = True
    for check in diagnose():
        healthy &= check.ok
        typer.secho(
            f"{'ok     ' if check.ok else 'problem'}  {check.name}: {check.detail}", fg=None if check.ok else "red"
        )
    raise typer.Exit(0 if healthy else 1)


def _pairs(pairs: list[str], option: str) -> list[tuple[str, str]]:
    from flows.config import ConfigError

    folders = []
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not Path(folder).is_dir():
            raise ConfigError(f"{option} {pair!r}: expected name=folder with an existing folder")
        folders.append((name, folder))
    return folders


def main() -> None:
    sys.exit(app())


if __name__ == "__main__":
    main()
