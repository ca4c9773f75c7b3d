"""The report stage: fill the page's templates with tables and figures into one file that needs nothing else.

Data is escaped by the templates, and as JSON by `browser`; only our own SVG, style and scripts go in as they are. A
content policy names our scripts by their hash and allows no request at all, so that a mistake in the escaping still
could not run or fetch anything. Drawing takes a few seconds, most of them matplotlib's.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from curate.figures import FIGURES
from eval.tables import AVERAGE
from flows.config import RunConfig
from flows.report import browser, layout, results, row_flow, selection_plots, summary, training_plots
from flows.report.data import Arm, ReportData, read_report
from flows.store import StageOutput, StageStore

REPORT_FILE = "report.html"
TEMPLATES = (
    *("shell.html", "page.html", "sections.html"),
    *("evaluation.html", "difference.html", "balance.html", "browser.html", "encoding.html", "figures.html"),
)
STYLE = "page.css"
SCRIPTS = ("page.js", "browser.js")
# of a folder the store hashes the Python files only
CODE = (
    "flows/report",
    *(f"flows/report/{name}" for name in (*TEMPLATES, STYLE, *SCRIPTS)),
    "curate/records.py",
    "curate/selection/inputs.py",
    "curate/figures",
    "eval/tables.py",
    "eval/leakage.py",
)
SHOWN_ROWS = 8
SHOWN_PICKS = 5
SHOWN_SOURCES = 20
DOUBTFUL = 0.5  # below it a task's ranking owes more to which targets were drawn than to the task


def report(config: RunConfig, store: StageStore, stages: Mapping[str, StageOutput]) -> StageOutput:
    """Write report.html from the finished stages."""

    def build(folder: Path) -> None:
        (folder / REPORT_FILE).write_text(render(read_report(config, stages)), encoding="utf-8")

    return store.run(
        "report",
        build,
        params={"config": config.model_dump(mode="json", exclude={"store", "store_cache", "execution"})},
        inputs={name: output.key for name, output in stages.items()},
        code=CODE,
    )


def template_environment(*folders: Path) -> Environment:
    """Templates of these folders, the first one's before the others', with every value escaped."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(data: ReportData) -> str:
    """The page as one HTML text without references to anything outside it."""
    folder = Path(__file__).parent
    environment = template_environment(folder)
    environment.filters |= {"signed": "{:+.3f}".format, "ratio": _ratio}
    tasks = data.analysis["tasks"]
    described = {arm.name: arm.analysis for arm in data.arms}
    coverages = {name: found["coverage"] for name, found in described.items()}
    sure = {arm.name: arm.confidence for arm in data.arms if arm.confidence is not None}
    flow = row_flow.read_flow(data.stages, [arm.name for arm in data.arms])
    picks = browser.embed(data.arms, data.conversations, data.config.selection.include)
    figures = {
        "flow": row_flow.figure_of(flow) if flow.steps else None,
        "shares": selection_plots.source_shares({arm.name: arm.shares for arm in data.arms}),
        "influence": selection_plots.influence_heat_map(data.analysis["influence_by_source"]),
        "balance": selection_plots.balance(data.analysis["spread"]["methods"], tasks),
        "evaluation": [results.figure_of(table) for table in data.comparison.tables],
        "utility": {arm.name: _utility(arm, tasks) for arm in data.arms if arm.analysis["utility"]["curve"]},
        "recall": selection_plots.coverage(coverages, tasks, "recall", "top rows that are in"),
        "along": selection_plots.coverage(coverages, tasks, "influence", "mean z-score of the picks"),
        "confidence": selection_plots.confidence(sure) if sure else None,
        "mixture": {arm.name: training_plots.mixture(arm.mixture, arm.losses) for arm in data.arms},
        "training": {arm.name: training_plots.details(arm.mixture) for arm in data.arms},
    }
    body, contents = layout.arrange(
        environment.get_template("sections.html").render(
            data=data,
            config=data.config,
            figures=_safe(figures),
            flow=flow,
            headline=results.headline(data.comparison),
            claim=spread_sentence(data.analysis["spread"]),
            results=[results.result_rows(table) for table in data.comparison.tables],
            left_out={arm.name: training_plots.left_out(arm.mixture) for arm in data.arms},
            average=AVERAGE,
            trained=set(described),
            doubtful=DOUBTFUL,
            agreement=_agreement(data.trust["checkpoints"]),
            shown=SHOWN_ROWS,
            shown_picks=SHOWN_PICKS,
            shown_sources=SHOWN_SOURCES,
            figure_names=FIGURES,
            picks=picks,
            removed_counts=Counter((row["filter"], row["source"]) for row in data.removed),
        )
    )
    scripts = [(folder / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return environment.get_template("page.html").render(
        title=data.config.name,
        config=data.config,
        sentence=summary.sentence(data),
        key_figures=summary.key_figures(data),
        total_seconds=sum(output.seconds for output in data.stages.values()),
        contents=[(entry.address, Markup(entry.title)) for entry in contents],
        body=Markup(body),
        picks=Markup(picks.json),
        scripts=[Markup(script) for script in scripts],
        hashes=[Markup(script_hash(script)) for script in scripts],
        style=Markup((folder / STYLE).read_text(encoding="utf-8")),
    )


def spread_sentence(spread: Mapping) -> str | None:
    """Whether the tasks' spread falls in the order that BIDS claims; None where not all of those methods can run."""
    if spread["falls"] is None:
        return None
    names = spread["claimed_order"]
    values = ", ".join(f"{name} {spread['methods'][name]['aid_between_task_std']:.3f}" for name in names)
    verdict = "falls in that order here" if spread["falls"] else "does not fall in that order here"
    return f"BIDS claims a spread between tasks that falls from {' to '.join(names)}. It {verdict}: {values}."


def _agreement(correlations: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Least and largest rank correlation between two checkpoints; None where there is one."""
    pairs = [value for i, row in enumerate(correlations) for value in row[i + 1 :]]
    return (min(pairs), max(pairs)) if pairs else None


def _ratio(value: float | None) -> str:
    return "a task has none" if value is None else f"{value:.1f} : 1"


def _utility(arm: Arm, tasks: Sequence[str]) -> str:
    utility = arm.analysis["utility"]
    return selection_plots.utility(utility["curve"], len(arm.tasks), utility["suggested"]["rows"], arm.tasks, tasks)


def script_hash(script: str) -> str:
    """A script's name in the content policy."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _safe(figures: object) -> object:
    if isinstance(figures, dict):
        return {name: _safe(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [_safe(value) for value in figures]
    return None if figures is None else Markup(figures)
