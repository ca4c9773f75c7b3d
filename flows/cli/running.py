"""Commands that do what a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.base import ConfigArgument, SetOption, app, load, named_folders, ready, user_errors

DEMO_CONFIG = Path("configs/demo.yaml")


def _run_pipeline(config_path: Path, overrides: list[str]) -> None:
    with user_errors(), ready(config_path, overrides) as config:
        from flows import console
        from flows.pipeline import pipeline_flow

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
    with user_errors(), ready(config, overrides) as checked:
        from flows import console
        from flows.nightly.files import promoted_folder
        from flows.nightly.flow import nightly_flow
        from flows.nightly.show import show_night

        night = nightly_flow(checked)
        show_night(night, console.console)
        folder = promoted_folder(checked.open_store().root, checked.name)
        if night.live:
            console.show_paths({name: str(folder / name) for name in ("adapter", "dataset")})


@app.command()
def validate(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Dry run: every error at once, and an estimate of time, memory and disk for every stage."""
    with user_errors():
        from flows.config import load_config

        settings = load_config(config, overrides)
        from flows import console
        from flows.checks import checked
        from flows.estimate import estimate
        from flows.stages.guard import told_before

        found = checked(settings)
        leakage = told_before(settings)
        typer.echo(f"{config} is valid.")
        typer.echo(leakage)
        console.show_estimate(settings, estimate(settings, found))


@app.command()
def curate(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Read, clean, attribute, select and export; no fine-tuning."""
    with user_errors(), ready(config, overrides) as checked:
        from flows import console
        from flows.pipeline import curate_flow

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
    with user_errors(), ready(config, overrides, data=False) as checked:
        from flows import console
        from flows.pipeline import finetune_flow

        tuned = finetune_flow(checked, dict(named_folders(dataset, "--dataset")))
        console.show_stages(tuned)
        console.show_paths({f"adapter {name}": str(output.path / "adapter") for name, output in tuned.items()})


@app.command()
def trace(
    config: ConfigArgument,
    examples: Annotated[Path, typer.Argument(help="file of conversations to ask about", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="pool rows per example")] = 5,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Which pool rows matter most for these examples, from the gradients a run has stored (influence.mode sketch)."""
    with user_errors():
        checked = load(config, overrides)
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
    with user_errors(), ready(config, overrides, data=False) as checked:
        from flows import console
        from flows.pipeline import evaluate_flow
        from flows.stages.evaluation import read_results

        folders: dict[str, list[str]] = {}
        for name, folder in named_folders(model, "--model"):
            folders.setdefault(name, []).append(folder)
        output = evaluate_flow(checked, folders, dict(named_folders(dataset, "--dataset")))
        console.show_comparison(read_results(output.path))
        console.show_paths({"results": str(output.path)})


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
    with user_errors():
        checked = load(config, overrides)
        from flows.deploy import serve_flows

        serve_flows(checked, cron, timezone, limit, flow)
