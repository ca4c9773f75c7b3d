"""Commands that need no configuration: they look at what runs have left, work on files, or look at this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.base import DEFAULT_STORE, StoreOption, app, user_errors


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="name of the nightly runs", show_default=False)],
    night: Annotated[int | None, typer.Argument(help="number of one night: what changed, and why")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the records")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """The nights of a name: what was promoted or refused and why, and what changed in the selection."""
    with user_errors():
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
    with user_errors():
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
def report(
    run: Annotated[str, typer.Argument(help="a run's record, its name, or name@time", show_default=False)],
    output: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report.html"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Draw the report of a finished run again, from what the store holds of it."""
    with user_errors():
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
    with user_errors():
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
    with user_errors():
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
    with user_errors():
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
    with user_errors():
        from flows.gc import collect

        remove = yes and not dry_run
        found = collect(store, keep=keep, keep_days=keep_days, unrecorded_days=unrecorded_days, remove=remove)
        typer.echo(found.in_words(remove))


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
